"""The whole configuration of one server, and the process it runs in."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, model_validator

from ghostfleet_simulator.config.api import Api
from ghostfleet_simulator.config.base import Flag, Live, Port, Settings, Switch, Whole, problem
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
    """Added to the ports that `kvEvents` binds, for servers that share an address."""

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

    kv_cache: KVCache = Field(default=KVCache(), alias="kvCache")
    """The paged KV cache."""

    kv_events: Annotated[KVEvents, Flag("kv-events-config")] = Field(default=KVEvents(), alias="kvEvents")
    """What the server publishes of its KV cache, and where; as a flag vLLM's JSON object."""

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

    @model_validator(mode="after")
    def _ports_apart(self) -> Self:
        taken = {self.listen.admin_port: "listen.adminPort"}
        if self.listen.uds is None:
            taken[self.listen.port] = "listen.port"
        for field, configured in self.kv_events.bound_ports.items():
            port = configured + self.listen.kv_events_port_offset
            if port in taken:
                raise problem(f"kvEvents.{field}", f"{port} is already {taken[port]}")
        return self

    @model_validator(mode="after")
    def _adapters_are_no_models(self) -> Self:
        check_adapter_names(self.lora, self.model.aliases)
        return self


LIVE_FIELDS: Final = tuple(
    info.alias or name
    for name, info in ServerConfig.model_fields.items()
    if any(isinstance(m, Live) for m in info.metadata)
)
"""Top-level keys, as written in documents, that a running server takes over at once."""
