"""The whole configuration of one server, and the process it runs in."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, model_validator

from ghostfleet_simulator.config.api import Api
from ghostfleet_simulator.config.base import GREATEST_PORT, Flag, Live, Name, Port, Settings, Switch, Whole, problem
from ghostfleet_simulator.config.behaviour import Answers
from ghostfleet_simulator.config.clock import ClockSettings
from ghostfleet_simulator.config.engine import BatchLimits, Engine, KVCache, ModelSettings, Scheduling
from ghostfleet_simulator.config.failures import Failures
from ghostfleet_simulator.config.fake_metrics import FakeMetrics
from ghostfleet_simulator.config.http import Http
from ghostfleet_simulator.config.kv_events import KVEvents
from ghostfleet_simulator.config.lifecycle import Lifecycle
from ghostfleet_simulator.config.lora import Lora, check_adapter_names
from ghostfleet_simulator.config.profile import Profile
from ghostfleet_simulator.config.ranks import MOST_RANKS, LocalRanks
from ghostfleet_simulator.config.transfer import BOOTSTRAP, KVTransfer


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """Least severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Listen(Settings):
    """Where the server listens."""

    host: Annotated[str, StringConstraints(max_length=253), Flag("host")] = ""
    """Address to bind; empty means all of them."""

    port: Annotated[Port, Flag("port")] = 8000
    """Port of the OpenAI API and of `/metrics`."""

    uds: Annotated[str | None, StringConstraints(min_length=1, max_length=107), Flag("uds")] = None
    """Path of a Unix socket to listen on in the place of `host` and `port`."""

    admin_port: Annotated[Port | None, Flag("admin-port")] = None
    """Port of the admin API; without it there is none."""

    kv_events_port_offset: Annotated[Whole, Field(ge=0, le=60000), Flag("kv-events-port-offset")] = 0
    """Added to the ports that `kvEvents` and `kvTransfer` bind, for servers that share an address."""

    kv_side_channel_host: Annotated[
        str | None, StringConstraints(min_length=1, max_length=253), Flag("kv-side-channel-host")
    ] = None
    """Address under which other servers find the side channel of `kvTransfer`; as a variable also
    `VLLM_NIXL_SIDE_CHANNEL_HOST`. `POD_IP` if not given, or else `host`."""

    kv_engine_id: Annotated[Name | None, Flag("kv-transfer-config.engine_id")] = None
    """What the server calls itself to them; a random UUID if not given. A rank above 0 adds its number."""

    shutdown_timeout_seconds: Annotated[Whole, Field(ge=0, le=3600), Flag("shutdown-timeout")] = 0
    """Whole seconds that running requests may go on after SIGTERM; 0 aborts them at once, as vLLM does by default."""

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.admin_port == self.port:
            raise problem("adminPort", f"{self.port} is already the port of the API")
        return self


class FixedConfig(Settings):
    """The blocks that take effect at the next start; a custom resource holds the same ones."""

    model: ModelSettings
    """The model the server claims to serve."""

    engine: Engine = Engine()
    """The engine that the server shows itself to be."""

    scheduling: Scheduling = Scheduling()
    """The scheduler."""

    data_parallel_size: Annotated[Whole, Field(ge=1, le=MOST_RANKS), Flag("data-parallel-size", "dp")] = 1
    """Engines of the server: data-parallel ranks, each with slots, a queue and a KV cache of its own."""

    data_parallel_port_per_rank: Annotated[Switch, Flag("data-parallel-multi-port-external-lb", "dpm")] = False
    """Rank i listens on port 8000 + i and shows its own metrics, for schedulers that choose ranks; else all are behind
    port 8000, and the server chooses."""

    kv_cache: KVCache = Field(default=KVCache(), alias="kvCache")
    """The paged KV cache."""

    kv_events: Annotated[KVEvents, Flag("kv-events-config")] = Field(default=KVEvents(), alias="kvEvents")
    """What the server publishes of its KV cache, and where; as a flag vLLM's JSON object."""

    kv_transfer: Annotated[KVTransfer, Flag("kv-transfer-config")] = Field(default=KVTransfer(), alias="kvTransfer")
    """KV cache between servers; as a flag vLLM's JSON object."""

    http: Http = Http()
    """What the serving API offers beside generation, and to whom."""

    lifecycle: Lifecycle = Lifecycle()
    """How long a server takes to start and to wake up."""

    api: Api = Api()
    """What the serving API tells, and how it sends it."""

    clock: ClockSettings = ClockSettings()
    """How fast time passes for the server."""

    seed: Annotated[Whole, Field(ge=0, le=2**63 - 1), Flag("seed")] = 0
    """Seed of every random choice; the same seed and the same requests give the same run on a virtual clock."""

    @model_validator(mode="after")
    def _cache_holds_one(self) -> Self:
        need = -(-self.model.max_model_len // self.kv_cache.block_size) + 1
        if self.kv_cache.blocks < need:
            raise problem(
                "kvCache.blocks",
                f"{self.kv_cache.blocks} blocks of {self.kv_cache.block_size} tokens do not hold one sequence of "
                f"model.maxModelLen={self.model.max_model_len} tokens: at least {need} are needed "
                "(one is the null block)",
            )
        return self

    @model_validator(mode="after")
    def _scheduler_serves(self) -> Self:
        tokens, longest = self.scheduling.max_num_batched_tokens, self.model.max_model_len
        if tokens is not None and tokens < longest and not self.scheduling.enable_chunked_prefill:
            raise problem(
                "scheduling.maxNumBatchedTokens",
                f"{tokens} is below model.maxModelLen={longest}, and without chunked prefill no longer prompt would "
                "ever be admitted",
            )
        if float(self.scheduling.watermark) >= 1:
            raise problem("scheduling.watermark", f"{self.scheduling.watermark} is not below 1")
        return self

    @property
    def limits(self) -> BatchLimits:
        """How much a step of the engine holds."""
        return self.scheduling.limits(self.engine.gpu, self.model.max_model_len)


class Behaviour(Settings):
    """The live blocks that are not the profile; a custom resource holds the same ones."""

    failures: Annotated[Failures, Live()] = ()
    """Failures to inject; none by default. Several of one type have different names."""

    failure_headers: Annotated[Switch, Live(), Flag("failure-headers")] = False
    """Whether a request may ask to fail, by `x-ghostfleet-inject` or llm-d-inference-sim's `X-Return-Error`."""

    answers: Annotated[Answers, Live()] = Answers()
    """What the server answers."""

    lora: Annotated[Lora, Live()] = Lora()
    """LoRA adapters."""

    fake_metrics: Annotated[FakeMetrics, Live()] = Field(default_factory=dict)
    """Series of `/metrics` that show what is given here in place of the truth, by name: a number, `oscillate`, `ramp`,
    `rampreset` or `squarewave` as `SHAPE:START:END:PERIOD`, or the counts of a histogram's buckets as `[1, 2]`."""


class LiveConfig(Behaviour):
    """The blocks that a running server takes over at once."""

    profile: Annotated[Profile, Live()] = Profile()
    """What the server costs in time."""


class ServerConfig(LiveConfig, FixedConfig):
    """The whole configuration of one server."""

    listen: Listen = Listen()
    """Where the server listens."""

    local_ranks: LocalRanks = LocalRanks()
    """Which data-parallel ranks this process runs."""

    @model_validator(mode="after")
    def _ranks_there(self) -> Self:
        for path, message in self.local_ranks.problems(
            self.data_parallel_size, port_per_rank=self.data_parallel_port_per_rank
        ):
            raise problem(path, message)
        if self.data_parallel_port_per_rank and self.listen.uds is not None:
            raise problem("dataParallelPortPerRank", "does not go with listen.uds")
        return self

    @model_validator(mode="after")
    def _ports_apart(self) -> Self:
        taken: dict[int | None, str] = {self.listen.admin_port: "listen.adminPort"}
        for port in self.ports:
            if port in taken:
                raise problem("listen.adminPort", f"{port} is already the port of a rank")
            if port > GREATEST_PORT:
                raise problem("listen.port", f"leaves no ports for {len(self.ports)} ranks")
            taken[port] = "listen.port"
        bound = {f"kvEvents.{field}": port for field, port in self.kv_events.bound_ports.items()}
        for field, configured in (bound | self.kv_transfer.bound_port).items():
            for rank in self.ranks[:1] if field == BOOTSTRAP else self.ranks:
                port = configured + rank + self.listen.kv_events_port_offset
                if port in taken and (field, taken[port]) != (BOOTSTRAP, "listen.port"):
                    raise problem(field, f"{port} is already {taken[port]}")
                taken[port] = field + (f" of rank {rank}" if len(self.ranks) > 1 else "")
        return self

    @model_validator(mode="after")
    def _adapters_are_no_models(self) -> Self:
        check_adapter_names(self.lora, self.model.aliases)
        return self

    @property
    def ranks(self) -> range:
        """The data-parallel ranks that run here."""
        return self.local_ranks.of(self.data_parallel_size, port_per_rank=self.data_parallel_port_per_rank)

    @property
    def ranks_elsewhere(self) -> frozenset[str]:
        """The numbers of those that other servers have."""
        return frozenset(map(str, range(self.data_parallel_size))) - frozenset(map(str, self.ranks))

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports of the API: one, or one for each rank that runs here."""
        if self.listen.uds is not None:
            return ()
        count = len(self.ranks) if self.data_parallel_port_per_rank and self.local_ranks.rank is None else 1
        return tuple(range(self.listen.port, self.listen.port + count))

    def on_port(self, port: int) -> ServerConfig:
        """The same on another port."""
        return self.model_copy(update={"listen": self.listen.model_copy(update={"port": port})})

    @property
    def servers(self) -> tuple[ServerConfig, ...]:
        """What each server of this process is configured with: itself, or a rank each."""
        if not self.data_parallel_port_per_rank or self.local_ranks.rank is not None:
            return (self,)
        return tuple(
            self.on_port(port).model_copy(update={"local_ranks": LocalRanks(rank=rank)})
            for rank, port in zip(self.ranks, self.ports, strict=True)
        )


LIVE_FIELDS: Final = tuple(
    info.alias or name
    for name, info in ServerConfig.model_fields.items()
    if any(isinstance(m, Live) for m in info.metadata)
)
"""Top-level keys, as written in documents, that a running server takes over at once."""
