"""Every setting of llm-d-inference-sim: its name, type, default and rules, and what becomes of it here.

Source: its docs/configuration.md and pkg/common/config.go at commit eec055a. Names are those of its flags, which
are the keys of its files and of its `/admin/config` as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.config import problem, tcp_port
from ghostfleet_simulator.config.base import Switch, Whole
from ghostfleet_simulator.llmd.durations import nanoseconds, spelt


class Fate(StrEnum):
    """What becomes of a setting."""

    SAME = "same"
    CLOSE = "close"
    NEEDLESS = "not needed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Becomes:
    """What becomes of a setting: the fields that say it here, and how that differs."""

    fate: Fate
    field: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Hot:
    """Marks a setting that its `POST /admin/config` changes."""


def _same(field: str, why: str = "") -> Becomes:
    return Becomes(Fate.SAME, field, why)


def _close(field: str, why: str) -> Becomes:
    return Becomes(Fate.CLOSE, field, why)


def _needless(why: str) -> Becomes:
    return Becomes(Fate.NEEDLESS, why=why)


def _missing(why: str) -> Becomes:
    return Becomes(Fate.MISSING, why=why)


def _duration(raw: object) -> object:
    if isinstance(raw, bool) or not isinstance(raw, (int, str)):
        raise PydanticCustomError("settings", "must be a duration such as 100ms, or whole nanoseconds")
    if isinstance(raw, int):
        return raw
    try:
        return nanoseconds(raw)
    except ValueError as error:
        raise PydanticCustomError("settings", "{why}", {"why": str(error)}) from None


_AS_TEXT: Final = PlainSerializer(spelt)
Nanoseconds = Annotated[int, BeforeValidator(_duration), _AS_TEXT, Field(ge=0)]
Percent = Annotated[Whole, Field(ge=0, le=100)]
Count = Annotated[Whole, Field(ge=1)]
Text = Annotated[str, Field(strict=True)]
Texts = tuple[Text, ...]

NO_TLS: Final = "there is no TLS; put a proxy in front"
_TOOLS: Final = _missing("no tool is called; chats with tools are answered in words")
_IMAGES: Final = _missing("answers with images are not simulated yet")
_DATASET: Final = _missing("answers from data sets are not simulated yet")
_IGNORED: Final = _needless("llm-d-inference-sim ignores it as well")
_RENDERER: Final = _needless("tokens come from the tokenizer that ghostfleet brings along")


LlmdFailure = Literal[
    "rate_limit", "invalid_api_key", "context_length", "server_error", "invalid_request", "model_not_found"
]


class LoraModule(BaseModel):
    """One adapter."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1)]
    path: str = ""
    base_model_name: str = ""


class LlmdSettings(BaseModel):
    """Its configuration."""

    model_config = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"), extra="forbid", frozen=True, validate_by_name=True
    )

    # --- the server
    port: Annotated[Whole, Field(ge=1, le=65535), _same("listen.port")] = 8000
    model: Annotated[Text, Field(min_length=1), _same("model.name")]
    served_model_name: Annotated[Texts, _same("model.servedNames")] = ()
    max_model_len: Annotated[Count, _same("model.maxModelLen", "at least 16 tokens")] = 1024
    max_num_seqs: Annotated[Count, _same("scheduling.maxNumSeqs")] = 5
    max_waiting_queue_length: Annotated[Whole, Field(ge=0), _same("scheduling.maxWaitingRequests")] = 1000
    mode: Annotated[
        Literal["random", "echo"],
        _close("answers.mode", "an echo is cut at max_tokens, and random texts are other ones"),
    ] = "random"
    seed: Annotated[
        Whole, Field(ge=-(2**63), lt=2**63), _close("seed", "chance is repeatable, but its course is another one")
    ] = 0
    startup_duration: Annotated[Nanoseconds, _same("lifecycle.readyAfter")] = 0
    enable_sleep_mode: Annotated[
        Switch,
        _close("http.developmentMode", "with VLLM_SERVER_DEV_MODE=1; an engine that sleeps serves nothing, as in vLLM"),
    ] = False
    enable_request_id_headers: Annotated[Switch, _same("api.enableRequestIdHeaders")] = False
    max_request_body_size_mb: Annotated[Whole, Field(ge=1, le=512), _needless("bodies of any size are read")] = 4
    log_http: Annotated[
        Switch, _missing("bodies are not logged; GET /admin/requests on the admin port tells of them")
    ] = False

    # --- time
    latency_calculator: Annotated[
        Literal["", "constant", "per-token"], Hot(), _same("profile.simple.latencyCalculator")
    ] = ""
    time_to_first_token: Annotated[Nanoseconds, Hot(), _same("profile.simple.timeToFirstToken")] = 0
    time_to_first_token_std_dev: Annotated[Nanoseconds, Hot(), _same("profile.simple.timeToFirstTokenStdDev")] = 0
    inter_token_latency: Annotated[Nanoseconds, Hot(), _same("profile.simple.interTokenLatency")] = 0
    inter_token_latency_std_dev: Annotated[Nanoseconds, Hot(), _same("profile.simple.interTokenLatencyStdDev")] = 0
    prefill_overhead: Annotated[Nanoseconds, Hot(), _same("profile.simple.prefillOverhead")] = 0
    prefill_time_per_token: Annotated[Nanoseconds, Hot(), _same("profile.simple.prefillTimePerToken")] = 0
    prefill_time_std_dev: Annotated[Nanoseconds, Hot(), _same("profile.simple.prefillTimeStdDev")] = 0
    kv_cache_transfer_latency: Annotated[Nanoseconds, Hot(), _same("profile.simple.kvCacheTransferLatency")] = 0
    kv_cache_transfer_latency_std_dev: Annotated[
        Nanoseconds, Hot(), _same("profile.simple.kvCacheTransferLatencyStdDev")
    ] = 0
    kv_cache_transfer_time_per_token: Annotated[
        Nanoseconds, Hot(), _same("profile.simple.kvCacheTransferTimePerToken")
    ] = 0
    kv_cache_transfer_time_std_dev: Annotated[Nanoseconds, Hot(), _same("profile.simple.kvCacheTransferTimeStdDev")] = 0
    time_factor_under_load: Annotated[
        float, Field(ge=1, le=999_999, allow_inf_nan=False), Hot(), _same("profile.simple.timeFactorUnderLoad")
    ] = 1.0

    # --- adapters
    max_loras: Annotated[Count, _same("lora.maxLoras")] = 1
    max_cpu_loras: Annotated[
        Whole, Field(ge=0), _same("lora.maxCpuLoras", "it has an effect here once adapters take time to load")
    ] = 0
    lora_modules: Annotated[tuple[LoraModule, ...], _same("lora.adapters")] = ()

    # --- KV cache
    enable_kvcache: Annotated[
        Switch, _close("kvCache.enablePrefixCaching", "answers take blocks, too, and a full cache makes requests wait")
    ] = False
    kv_cache_size: Annotated[
        Whole, Field(ge=0), _close("kvCache.blocks", "one more for vLLM's null block, and at least one whole sequence")
    ] = 1024
    block_size: Annotated[Whole, _same("kvCache.blockSize")] = 16
    hash_seed: Annotated[Text, _close("kvCache.hashSeed", "block hashes are vLLM's, not FNV")] = ""
    global_cache_hit_threshold: Annotated[
        float,
        Field(ge=0, le=1),
        _close("kvTransfer.cacheHitThreshold", "what another server is to send counts as cached, too"),
    ] = 0.0
    zmq_endpoint: Annotated[
        Text, _close("kvEvents.endpoint", "bound where it has a * or ::, as vLLM does; sequence numbers begin with 0")
    ] = "tcp://127.0.0.1:5557"
    kv_events_replay_endpoint: Annotated[Text, _same("kvEvents.replayEndpoint")] = ""
    kv_events_replay_queue_size: Annotated[Whole, _same("kvEvents.bufferSteps")] = 1024
    event_batch_size: Annotated[Count, _needless("events of a step are sent when it ends, as vLLM does")] = 16
    use_vllm_map_event_format: Annotated[
        Switch, _same("engine.version", "0.24, which writes maps, in the place of 0.19, which writes arrays")
    ] = False

    # --- ranks
    data_parallel_size: Annotated[Whole, Field(ge=1, le=8), _same("dataParallelSize", "with a port for each rank")] = 1
    data_parallel_rank: Annotated[Whole, Field(ge=-(2**31), le=7), _same("localRanks.rank")] = -1

    # --- failures and metrics
    failure_injection_rate: Annotated[Percent, Hot(), _same("failures")] = 0
    failure_types: Annotated[
        tuple[LlmdFailure, ...],
        Hot(),
        _same("failures"),
    ] = ()
    fake_metrics: Annotated[
        dict[str, Any] | None, Hot(), _close("fakeMetrics", "series that it does not name go on showing the truth")
    ] = None
    fake_metrics_refresh_interval: Annotated[
        Nanoseconds, Field(gt=0), _needless("courses are computed at each scrape")
    ] = 100_000_000

    # --- encryption
    ssl_certfile: Annotated[Text, _missing(NO_TLS)] = ""
    ssl_keyfile: Annotated[Text, _missing(NO_TLS)] = ""
    self_signed_certs: Annotated[Switch, _missing(NO_TLS)] = False

    # --- tokens
    render_url: Annotated[Text, _RENDERER] = "http://localhost:8082"
    render_timeout: Annotated[Nanoseconds, _RENDERER] = 30_000_000_000
    mm_render_timeout: Annotated[Nanoseconds, _RENDERER] = 60_000_000_000
    force_dummy_tokenizer: Annotated[Switch, _RENDERER] = False

    # --- what answers hold
    max_tool_call_integer_param: Annotated[Whole, _TOOLS] = 100
    min_tool_call_integer_param: Annotated[Whole, _TOOLS] = 0
    max_tool_call_number_param: Annotated[float, _TOOLS] = 100.0
    min_tool_call_number_param: Annotated[float, _TOOLS] = 0.0
    max_tool_call_array_param_length: Annotated[Whole, _TOOLS] = 5
    min_tool_call_array_param_length: Annotated[Whole, Field(ge=0), _TOOLS] = 1
    tool_call_not_required_param_probability: Annotated[Percent, _TOOLS] = 50
    object_tool_call_not_required_field_probability: Annotated[Percent, _TOOLS] = 50
    tool_call_extra_call_probability: Annotated[Percent, _TOOLS] = 45
    skip_tool_validation: Annotated[Switch, _TOOLS] = False
    dataset_path: Annotated[Text, _DATASET] = ""
    dataset_url: Annotated[Text, _DATASET] = ""
    dataset_in_memory: Annotated[Switch, _DATASET] = False
    dataset_table_name: Annotated[Text, _DATASET] = "llmd"
    omni: Annotated[Switch, _IMAGES] = False
    image_emission_rate: Annotated[Percent, Hot(), _IMAGES] = 0
    time_to_generate_image: Annotated[Nanoseconds, Hot(), _IMAGES] = 0
    time_to_generate_image_std_dev: Annotated[Nanoseconds, Hot(), _IMAGES] = 0
    mm_encoder_only: Annotated[Switch, _same("model.encoderOnly")] = False
    default_embedding_dimensions: Annotated[Count, _missing("embeddings are not simulated yet")] = 384

    # --- what it takes and ignores
    mm_processor_kwargs: Annotated[Text, _IGNORED] = ""
    ec_transfer_config: Annotated[Text, _IGNORED] = ""
    enforce_eager: Annotated[Switch, _IGNORED] = False
    enable_prefix_caching: Annotated[Switch, _needless("it ignores it as well: enable-kvcache decides")] = True
    tensor_parallel_size: Annotated[Whole, _IGNORED] = 1

    @model_validator(mode="after")
    def _times(self) -> Self:
        for mean in (
            "time-to-first-token",
            "inter-token-latency",
            "kv-cache-transfer-latency",
            "time-to-generate-image",
        ):
            deviation = f"{mean}-std-dev"
            if self.value(deviation) * 10 > self.value(mean) * 3:
                raise problem(deviation, f"cannot be more than 30% of {mean}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if 0 < self.max_cpu_loras < self.max_loras:
            raise problem("max-cpu-loras", "cannot be less than max-loras")
        for lora in self.lora_modules:
            if lora.base_model_name not in ("", self.model):
                raise problem("lora-modules", f"unknown base model {lora.base_model_name!r} for LoRA {lora.name!r}")
        for kind in ("integer-param", "number-param", "array-param-length"):
            if self.value(f"max-tool-call-{kind}") < self.value(f"min-tool-call-{kind}"):
                raise problem(f"max-tool-call-{kind}", f"cannot be less than min-tool-call-{kind}")
        if self.block_size not in (8, 16, 32, 64, 128):
            raise problem("block-size", f"{self.block_size} is not one of 8, 16, 32, 64, 128")
        if bool(self.ssl_certfile) != bool(self.ssl_keyfile):
            raise problem("ssl-certfile", "and ssl-keyfile must be given together")
        if self.self_signed_certs and self.ssl_certfile:
            raise problem("self-signed-certs", "cannot be given together with ssl-certfile")
        if self.dataset_url and not self.dataset_path:
            raise problem("dataset-path", "required with dataset-url")
        if self.mode == "echo" and self.dataset_path:
            raise problem("dataset-path", "cannot be given in echo mode")
        return self

    @model_validator(mode="after")
    def _events(self) -> Self:
        if not self.kv_events_replay_endpoint:
            return self
        if self.kv_events_replay_queue_size < 1:
            raise problem("kv-events-replay-queue-size", "cannot be less than 1")
        events, replay = tcp_port(self.zmq_endpoint), tcp_port(self.kv_events_replay_endpoint)
        if events and replay and abs(events - replay) < self.data_parallel_size:
            raise problem("kv-events-replay-endpoint", "collides with zmq-endpoint, a port for each rank")
        return self

    def value(self, name: str) -> Any:
        """The value of a setting by its own name."""
        return getattr(self, name.replace("-", "_"))

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the settings that somebody set."""
        return tuple(name.replace("_", "-") for name in type(self).model_fields if name in self.model_fields_set)


class Setting(NamedTuple):
    """What is known about one setting."""

    name: str
    info: FieldInfo
    becomes: Becomes
    hot: bool


def _all() -> Iterator[Setting]:
    for name, info in LlmdSettings.model_fields.items():
        becomes = next(mark for mark in info.metadata if isinstance(mark, Becomes))
        yield Setting(name.replace("_", "-"), info, becomes, any(isinstance(mark, Hot) for mark in info.metadata))


SETTINGS: Final = {setting.name: setting for setting in _all()}
"""Every setting by its name."""

DURATIONS: Final = frozenset(
    name for name, setting in SETTINGS.items() if any(mark is _AS_TEXT for mark in setting.info.metadata)
)
"""Settings that are durations."""


def shown_default(name: str) -> str:
    """The default of a setting as it would be written; nothing where there is none."""
    info = SETTINGS[name].info
    if info.is_required() or info.default in ("", (), None):
        return ""
    if name in DURATIONS:
        return spelt(info.default)
    return str(info.default).lower() if isinstance(info.default, bool) else str(info.default)
