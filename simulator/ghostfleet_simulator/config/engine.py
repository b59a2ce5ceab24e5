"""What is fixed when a server starts: the engine it shows itself to be, its model, its scheduler and its KV cache."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Final, NamedTuple, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.config.base import Flag, Name, Settings, Switch, Whole, distinct, problem
from ghostfleet_simulator.units import Duration, Probability, Size
from ghostfleet_simulator.versions import NEWEST, OLDEST, Conduct, conduct, known

VLLM_VERSION: Final = NEWEST
"""The version of vLLM that a server shows unless told otherwise."""


def _known(version: str) -> str:
    if not known(version):
        raise PydanticCustomError(
            "settings",
            "{version} is not a version of vLLM whose behaviour is known: {oldest} to {newest}",
            {"version": version, "oldest": OLDEST, "newest": NEWEST},
        )
    return version


Version = Annotated[
    str, StringConstraints(max_length=16, pattern=r"^[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,5})?$"), AfterValidator(_known)
]

_GPU_GIB: Final = {
    "a10": 24,
    "a10g": 24,
    "a100": 80,
    "b200": 179,
    "b300": 268,
    "gb200": 185,
    "gb300": 277,
    "gh200": 96,
    "h100": 80,
    "h20": 96,
    "h200": 141,
    "h800": 80,
    "l4": 24,
    "l40s": 48,
    "mi300x": 192,
    "mi325x": 256,
    "mi355x": 288,
    "rtxpro6000": 96,
    "t4": 16,
}
"""Memory of GPUs, which is what vLLM takes its defaults by."""


class Dialect(StrEnum):
    """Engines that a server can show itself to be."""

    VLLM = "VLLM"
    SGLANG = "SGLang"
    TENSORRT_LLM = "TensorRTLLM"
    TRITON_TENSORRT_LLM = "TritonTensorRTLLM"
    TRITON = "Triton"

    @property
    def engine_type(self) -> str:
        """Value of the pod label `llm-d.ai/engine-type`, by which a scheduler chooses how to read a server."""
        return _ENGINE_TYPES[self]


_ENGINE_TYPES: Final = {
    Dialect.VLLM: "vllm",
    Dialect.SGLANG: "sglang",
    Dialect.TENSORRT_LLM: "trtllm-serve",
    Dialect.TRITON_TENSORRT_LLM: "triton-tensorrt-llm",
    Dialect.TRITON: "triton",
}


class Engine(Settings):
    """The engine that the server shows itself to be."""

    dialect: Annotated[Dialect, Flag("dialect")] = Dialect.VLLM
    """Engine whose metrics, and for `SGLang` also whose API and KV events, are shown; it schedules as vLLM does."""

    version: Annotated[Version, Flag("vllm-version")] = VLLM_VERSION
    """Version of vLLM whose behaviour is shown, such as `0.29` or `0.33.0`."""

    gpu: Annotated[Name | None, Field(max_length=64), Flag("gpu")] = None
    """GPU whose defaults the limits of the scheduler have, such as `H100`. For one that is not known, or none, they are
    those of a small GPU."""

    @property
    def conduct(self) -> Conduct:
        """What the version does where versions differ, as far as the dialect shows it."""
        known = conduct(self.version)
        if self.dialect is Dialect.VLLM:
            return known
        return replace(known, has_kv_event_sources=False, kv_replay_has_topic=self.dialect is not Dialect.SGLANG)


class ModelSettings(Settings):
    """The model the server claims to serve."""

    name: Annotated[Name, Flag("model")]
    """Name of the model, usually as on a model hub; answered as `root` in the model list."""

    served_names: Annotated[
        tuple[Name, ...], Field(max_length=16), AfterValidator(distinct), Flag("served-model-name")
    ] = ()
    """Names that requests may use; the first is answered in responses and metrics. Without any, the model's name."""

    max_model_len: Annotated[Whole, Field(ge=16, le=10_485_760), Flag("max-model-len")] = 32768
    """Longest sequence in tokens, prompt and answer together."""

    tokenizer: Annotated[str | None, StringConstraints(min_length=1, max_length=4096), Flag("tokenizer")] = None
    """Folder with the `tokenizer.json` and `tokenizer_config.json` of the tokenizer; without it the one that comes with
    the package. Nothing is ever fetched from a hub."""

    chat_template: Annotated[str | None, StringConstraints(min_length=1, max_length=262_144), Flag("chat-template")] = (
        None
    )
    """Chat template in place of the tokenizer's: a file, or the Jinja template itself."""

    multimodal: Annotated[Switch, Flag("multimodal")] = False
    """Requests may hold images, audio and video. Each is a short marker in the prompt, and costs no time."""

    encoder_only: Annotated[Switch, Flag("mm-encoder-only")] = False
    """Only the encoder of a multimodal model: answers are `!`, with `ec_transfer_params` for what was encoded."""

    @property
    def takes_media(self) -> bool:
        """Whether requests may hold more than text."""
        return self.multimodal or self.encoder_only

    @property
    def aliases(self) -> tuple[str, ...]:
        """Names that requests may use, the one that is answered first; never empty."""
        return self.served_names or (self.name,)


class SchedulingPolicy(StrEnum):
    """In which order requests are served."""

    FCFS = "FCFS"
    PRIORITY = "Priority"


class BatchLimits(NamedTuple):
    """How much a step holds."""

    max_num_seqs: int
    max_num_batched_tokens: int


class Scheduling(Settings):
    """The continuous-batching scheduler."""

    max_num_seqs: Annotated[Whole | None, Field(ge=1, le=65536), Flag("max-num-seqs")] = None
    """Most sequences that run at the same time. Without it what vLLM takes for the GPU: 1024 for one of at least 70 GiB
    but an A100, else 256."""

    max_num_batched_tokens: Annotated[Whole | None, Field(ge=1, le=1_048_576), Flag("max-num-batched-tokens")] = None
    """Token budget of one engine step, prefill chunks and decodes together. Without it what vLLM takes for the GPU:
    16384 from 160 GiB, 8192 from 70 GiB but for an A100, else 2048; at most all sequences at their longest."""

    policy: Annotated[SchedulingPolicy, Flag("scheduling-policy")] = SchedulingPolicy.FCFS
    """`FCFS` serves in the order of arrival; `Priority` by the `priority` of requests, the lowest first, then by
    arrival."""

    enable_chunked_prefill: Annotated[Switch, Flag("enable-chunked-prefill")] = True
    """A prompt is computed in parts where the token budget of a step does not hold it whole; else it waits."""

    long_prefill_token_threshold: Annotated[Whole, Field(ge=0, le=1_048_576), Flag("long-prefill-token-threshold")] = 0
    """Most tokens of one prompt in one step while there are other sequences; 0 sets no limit."""

    long_prefill_token_threshold_adaptive: Annotated[Switch, Flag("long-prefill-token-threshold-adaptive")] = False
    """The threshold is never below an equal share of the token budget."""

    reserve_full_isl: Annotated[Switch, Flag("scheduler-reserve-full-isl")] = True
    """A sequence is admitted only if blocks for its whole prompt are free, not just for the first part of it."""

    max_num_queued_reqs: Annotated[Whole | None, Field(ge=0, le=2**31), Flag("max-num-queued-reqs")] = None
    """Sequences, running and waiting, beyond which requests are turned away with status 503; without it no limit."""

    max_num_queued_tokens: Annotated[Whole | None, Field(ge=0, le=2**53), Flag("max-num-queued-tokens")] = None
    """Tokens of prompts whose first token has not come, from which on requests are turned away with status 503; without
    it no limit."""

    max_waiting_requests: Annotated[Whole | None, Field(ge=0, le=2**31), Flag("max-waiting-queue-length")] = None
    """Sequences that may wait while others run; more are turned away with status 429, as llm-d-inference-sim does."""

    watermark: Annotated[Probability, Flag("watermark")] = Probability.parse("0")
    """Share of the KV-cache blocks, below 1, that an admission must leave free while other sequences run."""

    def limits(self, gpu: str | None, max_model_len: int) -> BatchLimits:
        """How much a step holds where the model's longest sequence has `max_model_len` tokens.

        Source: vLLM 0.33 engine/arg_utils.py, get_batch_defaults and what follows it, for the API server.
        """
        name = (gpu or "").lower().replace("-", "").removeprefix("nvidia")
        # H100-SXM and H100-80GB-HBM3 are an H100.
        known = max((known for known in _GPU_GIB if name.startswith(known)), key=len, default="")
        memory = _GPU_GIB.get(known, 0)
        if memory >= 160:
            seqs, tokens = 1024, 16384
        elif memory >= 70 and known != "a100":
            seqs, tokens = 1024, 8192
        else:
            seqs, tokens = 256, 2048
        seqs = self.max_num_seqs or seqs
        if not self.enable_chunked_prefill:
            tokens = max(tokens, max_model_len)
        tokens = self.max_num_batched_tokens or min(tokens, seqs * max_model_len)
        return BatchLimits(self.max_num_seqs or min(seqs, tokens), tokens)


class HashAlgorithm(StrEnum):
    """What block hashes are made with, under vLLM's names."""

    SHA256 = "sha256"
    SHA256_CBOR = "sha256_cbor"
    XXHASH = "xxhash"
    XXHASH_CBOR = "xxhash_cbor"


class TierMedium(StrEnum):
    """What a tier beside the GPU is."""

    CPU = "CPU"
    DISK = "Disk"


_TIER_DEFAULTS: Final = {
    TierMedium.CPU: (Size.parse("20G"), Size.parse("20G"), Duration(1_000)),
    TierMedium.DISK: (Size.parse("7G"), Size.parse("5G"), Duration(80_000)),
}
"""Read rate, write rate and latency: of host memory over PCIe, and of an NVMe disk of the fourth generation."""


class KVTier(Settings):
    """A tier that KV-cache blocks are offloaded to."""

    medium: TierMedium
    """`CPU` is host memory; `Disk` is behind it and needs it."""

    capacity: Size
    """What it holds."""

    read_bandwidth: Size | None = None
    """Bytes per second that come out of it. 20G for `CPU` and 7G for `Disk` if not given."""

    write_bandwidth: Size | None = None
    """Bytes per second that go into it. 20G for `CPU` and 5G for `Disk` if not given."""

    latency: Duration | None = None
    """Time that is added to every transfer. 1us for `CPU` and 80us for `Disk` if not given."""

    @property
    def read_rate(self) -> int:
        """Bytes per second."""
        return (self.read_bandwidth or _TIER_DEFAULTS[self.medium][0]).bytes

    @property
    def write_rate(self) -> int:
        """Bytes per second."""
        return (self.write_bandwidth or _TIER_DEFAULTS[self.medium][1]).bytes

    @property
    def delay(self) -> Duration:
        """The latency."""
        return _TIER_DEFAULTS[self.medium][2] if self.latency is None else self.latency


class KVCache(Settings):
    """The paged KV cache."""

    block_size: Annotated[Whole, Field(ge=1, le=1024), Flag("block-size")] = 16
    """Tokens in a block."""

    blocks: Annotated[Whole, Field(ge=2, le=100_000_000), Flag("num-gpu-blocks-override")] = 16384
    """Number of blocks; one of them is vLLM's null block and never holds tokens."""

    enable_prefix_caching: Annotated[Switch, Flag("enable-prefix-caching")] = True
    """Full blocks stay after their sequence, until they are needed, for sequences that begin with the same tokens."""

    prefix_caching_hash_algo: Annotated[HashAlgorithm, Flag("prefix-caching-hash-algo")] = HashAlgorithm.SHA256
    """What block hashes are made with."""

    hash_seed: Annotated[str | None, StringConstraints(max_length=128), Flag("hash-seed")] = None
    """Seed of the block hashes; what `PYTHONHASHSEED` is to vLLM, and taken from that variable where it is not set.
    Without either, vLLM 0.29 and later has a fixed one for the SHA-256 algorithms; else it is random in every process.
    Servers whose hashes shall be equal need an equal seed."""

    bytes_per_token: Size = Size.parse("128Ki")
    """Keys and values of one token; 128Ki is a model of 8 billion parameters."""

    tiers: Annotated[tuple[KVTier, ...], Field(max_length=2)] = ()
    """Tiers that blocks are offloaded to: `CPU`, and behind it `Disk`."""

    @model_validator(mode="after")
    def _tiers_fit(self) -> Self:
        if [tier.medium for tier in self.tiers] not in ([], [TierMedium.CPU], [TierMedium.CPU, TierMedium.DISK]):
            raise problem("tiers", "there is one CPU tier, and then perhaps one Disk tier")
        if self.tiers and not self.enable_prefix_caching:
            raise problem("tiers", "blocks are offloaded by their hashes, which enablePrefixCaching gives them")
        size = self.block_size * self.bytes_per_token.bytes
        for index, tier in enumerate(self.tiers):
            if tier.capacity.bytes < size:
                raise problem(f"tiers[{index}].capacity", f"{tier.capacity} does not hold one block of {size} bytes")
        return self
