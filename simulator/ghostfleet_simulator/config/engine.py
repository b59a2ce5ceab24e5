"""What is fixed when a server starts: its model, its scheduler and its KV cache."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from ghostfleet_simulator.config.base import Flag, Name, Settings, Whole, distinct

VLLM_VERSION: Final = "0.33.0"
"""The version of vLLM whose behaviour a server shows."""


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
