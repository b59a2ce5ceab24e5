"""Every setting a server has: the one source of flags, configuration files, the admin API and the CRD schema.

Names are camelCase in files, custom resources and the admin API and kebab-case as flags. A field that carries `Flag`
can be set on the command line; a top-level block that carries `Live` takes effect at once, every other one at the next
start. Flags are vLLM's where vLLM 0.33 has one, else llm-d-inference-sim's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.units import Duration, Factor, Probability


VLLM_VERSION: Final = "0.33.0"
"""The version of vLLM whose behaviour a server shows."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Marks a field that `ghostfleet serve` takes as `--<name>`; a list field takes several values."""

    name: str


@dataclass(frozen=True, slots=True)
class Live:
    """Marks a block of `ServerConfig` that a running server takes over without a restart."""


class Settings(BaseModel):
    """Base of every settings block: camelCase outside, unknown fields refused, frozen once made."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


def problem(path: str, message: str) -> PydanticCustomError:
    """A cross-field error whose text names the field it is about, relative to the block that raises it."""
    return PydanticCustomError("settings", "{path}: {message}", {"path": path, "message": message})


def _no_boolean(value: object) -> object:
    # pydantic takes true for 1, the API server does not.
    if isinstance(value, bool):
        raise PydanticCustomError("settings", "{value} is not a whole number", {"value": str(value).lower()})
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[^\s\x00]+$")]
Port = Annotated[Whole, Field(ge=1, le=65535)]


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise PydanticCustomError("settings", "the names must differ from each other")
    return values


class ModelSettings(Settings):
    """The model the server claims to serve."""

    name: Annotated[Name, Flag("model")]
    """Name of the model, usually as on a model hub; answered as `root` in the model list."""

    served_names: Annotated[
        tuple[Name, ...], Field(max_length=16), AfterValidator(_distinct), Flag("served-model-name")
    ] = ()
    """Names that requests may use; the first is answered in responses and metrics. Without any, the model's name."""

    max_model_len: Annotated[Whole, Field(ge=16, le=10_485_760), Flag("max-model-len")] = 32768
    """Longest sequence in tokens, prompt and answer together."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Names that requests may use, the one that is answered first; never empty."""
        return self.served_names or (self.name,)


class Scheduling(Settings):
    """Limits of the continuous-batching scheduler; the defaults are vLLM's for an unknown GPU."""

    max_num_seqs: Annotated[Whole, Field(ge=1, le=65536), Flag("max-num-seqs")] = 256
    """Most sequences that run at the same time."""

    max_num_batched_tokens: Annotated[Whole, Field(ge=1, le=1_048_576), Flag("max-num-batched-tokens")] = 2048
    """Token budget of one engine step, prefill chunks and decodes together."""


class KVCache(Settings):
    """The paged KV cache."""

    block_size: Annotated[Whole, Field(ge=1, le=1024), Flag("block-size")] = 16
    """Tokens in a block."""

    blocks: Annotated[Whole, Field(ge=2, le=100_000_000), Flag("num-gpu-blocks-override")] = 16384
    """Number of blocks; one of them is vLLM's null block and never holds tokens."""


class LatencyCalculator(StrEnum):
    """How the time to the first token is made; llm-d-inference-sim's `latency-calculator`."""

    AUTO = "Auto"
    CONSTANT = "Constant"
    PER_TOKEN = "PerToken"  # noqa: S105 - a mode, not a password


_SPREAD: Final = "at most 30 % of the mean"


class SimpleTiming(Settings):
    """Latencies per request, under llm-d-inference-sim's names, exact to the microsecond.

    A time with a deviation is drawn from a normal distribution cut off at 70 % below and above its mean.
    """

    latency_calculator: Annotated[LatencyCalculator, Flag("latency-calculator")] = LatencyCalculator.AUTO
    """What makes the time to the first token: `Constant` takes `timeToFirstToken`, `PerToken` the prefill times, `Auto`
    the former where it is set and else the latter."""

    time_to_first_token: Annotated[Duration, Flag("time-to-first-token")] = Duration(0)
    """Time from admission to the first token."""

    time_to_first_token_std_dev: Annotated[Duration, Flag("time-to-first-token-std-dev")] = Duration(0)
    """Standard deviation of `timeToFirstToken`, at most 30 % of it."""

    inter_token_latency: Annotated[Duration, Flag("inter-token-latency")] = Duration(0)
    """Time between two tokens of one sequence."""

    inter_token_latency_std_dev: Annotated[Duration, Flag("inter-token-latency-std-dev")] = Duration(0)
    """Standard deviation of `interTokenLatency`, at most 30 % of it."""

    prefill_overhead: Annotated[Duration, Flag("prefill-overhead")] = Duration(0)
    """Constant part of a prefill, without regard to its length."""

    prefill_time_per_token: Annotated[Duration, Flag("prefill-time-per-token")] = Duration(0)
    """Time that each prompt token adds to a prefill."""

    prefill_time_std_dev: Annotated[Duration, Flag("prefill-time-std-dev")] = Duration(0)
    """Standard deviation of the prefill time."""

    time_factor_under_load: Annotated[Factor, Flag("time-factor-under-load")] = Factor.parse(1)
    """Factor on the times when `maxNumSeqs` sequences run; 1 with one sequence and linear in between. At least 1."""

    tick: Duration = Duration(1_000_000)
    """Grid onto which due times are rounded up, so that one wake-up serves all tokens that fall due together."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        for mean, deviation, path in (
            (self.time_to_first_token, self.time_to_first_token_std_dev, "timeToFirstTokenStdDev"),
            (self.inter_token_latency, self.inter_token_latency_std_dev, "interTokenLatencyStdDev"),
        ):
            if deviation.ns * 10 > mean.ns * 3:
                raise problem(path, f"{deviation} is too large for a mean of {mean}: {_SPREAD}")
        if float(self.time_factor_under_load) < 1:
            raise problem("timeFactorUnderLoad", f"{self.time_factor_under_load} is below 1")
        if not 10_000 <= self.tick.ns <= 1_000_000_000:
            raise problem("tick", f"{self.tick} is not between 10us and 1s")
        return self


class Backend(StrEnum):
    """Which model of step times a profile uses."""

    SIMPLE = "Simple"


class Profile(Settings):
    """What a server costs in time; every field takes effect at once on a running server."""

    backend: Backend = Backend.SIMPLE
    """The model of step times in use; the block of the same name holds its numbers."""

    simple: SimpleTiming = SimpleTiming()
    """Times per request and token."""


class FailureType(StrEnum):
    """The answers that llm-d-inference-sim injects, under CamelCase names."""

    RATE_LIMIT = "RateLimit"
    INVALID_API_KEY = "InvalidAPIKey"
    CONTEXT_LENGTH = "ContextLength"
    SERVER_ERROR = "ServerError"
    INVALID_REQUEST = "InvalidRequest"
    MODEL_NOT_FOUND = "ModelNotFound"


class Failure(Settings):
    """One kind of injected failure."""

    type: FailureType
    """What the client gets instead of an answer."""

    probability: Probability
    """Share of the requests that fail this way, `"0.05"` or `"5%"`; all failures together at most 1."""


class AnswerMode(StrEnum):
    """What a server says."""

    ECHO = "Echo"
    RANDOM = "Random"


class Answers(Settings):
    """What the server answers."""

    mode: Annotated[AnswerMode, Flag("mode")] = AnswerMode.RANDOM
    """`Echo` repeats the prompt or the last message; `Random` makes sentences of random length."""


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

    admin_port: Annotated[Port | None, Flag("admin-port")] = None
    """Port of the admin API; without it there is none."""

    shutdown_timeout_seconds: Annotated[Whole, Field(ge=0, le=3600), Flag("shutdown-timeout")] = 0
    """Whole seconds that running requests may go on after SIGTERM; 0 aborts them at once, as vLLM does by default."""

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.admin_port == self.port:
            raise problem("adminPort", f"{self.port} is already the port of the API")
        return self


def _total(failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
    types = [failure.type for failure in failures]
    for failure_type in types:
        if types.count(failure_type) > 1:
            raise PydanticCustomError("settings", "{type} is listed twice", {"type": failure_type.value})
    total = sum(float(failure.probability) for failure in failures)
    if total > 1 + 1e-9:
        raise PydanticCustomError(
            "settings", "the probabilities add up to {total}, more than 1", {"total": f"{total:g}"}
        )
    return failures


Failures = Annotated[tuple[Failure, ...], Field(max_length=len(FailureType)), AfterValidator(_total)]


class FixedConfig(Settings):
    """The blocks that take effect at the next start; a custom resource holds the same ones."""

    model: ModelSettings
    """The model the server claims to serve."""

    scheduling: Scheduling = Scheduling()
    """Limits of the scheduler."""

    kv_cache: KVCache = Field(default=KVCache(), alias="kvCache")
    """The paged KV cache."""

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


class Behaviour(Settings):
    """The live blocks that are not the profile; a custom resource holds the same ones."""

    failures: Annotated[Failures, Live()] = ()
    """Failures to inject, one entry per type; none by default."""

    answers: Annotated[Answers, Live()] = Answers()
    """What the server answers."""


class LiveConfig(Behaviour):
    """The blocks that a running server takes over at once."""

    profile: Annotated[Profile, Live()] = Profile()
    """What the server costs in time."""


class ServerConfig(LiveConfig, FixedConfig):
    """The whole configuration of one server."""

    listen: Listen = Listen()
    """Where the server listens."""


LIVE_FIELDS: Final = tuple(
    info.alias or name
    for name, info in ServerConfig.model_fields.items()
    if any(isinstance(m, Live) for m in info.metadata)
)
"""Top-level keys, as written in documents, that a running server takes over at once."""
