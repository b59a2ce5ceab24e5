"""Which dialect names what a server measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ghostfleet_simulator.config import Dialect, ServerConfig
from ghostfleet_simulator.metrics.families import Time
from ghostfleet_simulator.metrics.naming import Naming
from ghostfleet_simulator.metrics.sglang import SGLang
from ghostfleet_simulator.metrics.tensorrt_llm import TensorRTLLM
from ghostfleet_simulator.metrics.triton import Triton, TritonTensorRTLLM
from ghostfleet_simulator.metrics.vllm import VLLM

_NAMINGS: Final[dict[Dialect, type[VLLM | Naming]]] = {
    Dialect.VLLM: VLLM,
    Dialect.SGLANG: SGLang,
    Dialect.TENSORRT_LLM: TensorRTLLM,
    Dialect.TRITON_TENSORRT_LLM: TritonTensorRTLLM,
    Dialect.TRITON: Triton,
}


def naming_of(config: ServerConfig, ranks: Sequence[int], now: Time) -> VLLM | Naming:
    """The series of a server's engines, of these data-parallel ranks, under the names of its dialect."""
    return _NAMINGS[config.engine.dialect](config, ranks, now)
