"""The numbers of the backend `Roofline`: what the model is, what the GPU can do, and how well that is used."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final, Self

from pydantic import Field, StringConstraints, model_validator

from ghostfleet_simulator.config.base import Settings, Whole, problem
from ghostfleet_simulator.config.timing import check_soft_max
from ghostfleet_simulator.problems import nearest
from ghostfleet_simulator.units import Factor


class Precision(StrEnum):
    """How a number is kept."""

    BF16 = "BF16"
    FP8 = "FP8"
    INT8 = "INT8"
    FP4 = "FP4"
    INT4 = "INT4"


class CachePrecision(StrEnum):
    """How keys and values are kept."""

    BF16 = "BF16"
    FP8 = "FP8"


Size = Annotated[Whole, Field(ge=1, le=10_000_000)]
Count = Annotated[Whole, Field(ge=0, le=65536)]


class Geometry(Settings):
    """The shape of a decoder with grouped-query attention and a gated feed-forward part, as its config.json says."""

    layers: Annotated[Whole, Field(ge=1, le=1024)]
    """`num_hidden_layers`."""

    hidden: Size
    """`hidden_size`."""

    heads: Size
    """`num_attention_heads`."""

    kv_heads: Size
    """`num_key_value_heads`."""

    head_dim: Size
    """`head_dim`, or hidden size by heads."""

    ffn: Size
    """`intermediate_size`, with experts that of one of them."""

    vocab: Size
    """`vocab_size`."""

    experts: Count = 0
    """Experts of a layer; 0: none."""

    experts_per_token: Count = 0
    """Experts that compute a token."""

    shared_experts: Count = 0
    """Experts that compute every token beside those."""

    @model_validator(mode="after")
    def _routing(self) -> Self:
        if self.experts and not 1 <= self.experts_per_token <= self.experts:
            raise problem("expertsPerToken", f"{self.experts_per_token} is not from 1 to experts={self.experts}")
        if not self.experts and (self.experts_per_token or self.shared_experts):
            raise problem("experts", "required with expertsPerToken and sharedExperts")
        return self


class Hardware(Settings):
    """What one GPU can do at best: dense matrix products, memory, link."""

    tflops16: Factor
    """TFLOP/s with 16-bit numbers."""

    tflops8: Factor = Factor.parse(0)
    """TFLOP/s with 8-bit numbers; 0: it computes with 16 bits."""

    tflops4: Factor = Factor.parse(0)
    """TFLOP/s with 4-bit numbers; 0: it computes with 8 bits."""

    memory_gbps: Annotated[Factor, Field(alias="memoryGBps")]
    """Bandwidth of the memory in 10^9 bytes per second."""

    link_gbps: Annotated[Factor, Field(alias="linkGBps")] = Factor.parse(64)
    """Bandwidth of the link to a GPU of the same node, one way, in 10^9 bytes per second."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for path, value in (
            ("tflops16", self.tflops16),
            ("memoryGBps", self.memory_gbps),
            ("linkGBps", self.link_gbps),
        ):
            if not float(value):
                raise problem(path, "must be more than 0")
        return self


class Efficiency(Settings):
    """Shares of the hardware's best that are reached, more than 0 and at most 1."""

    weight_read: Factor = Factor.parse("0.91")
    """Reading weights."""

    kv_read: Factor = Factor.parse("0.97")
    """Reading keys and values."""

    gemm16: Factor = Factor.parse("0.65")
    """Matrix products with 16-bit numbers."""

    gemm8: Factor = Factor.parse("0.42")
    """Matrix products with 8-bit and 4-bit numbers."""

    attention: Factor = Factor.parse("0.5")
    """Attention of prompts."""

    link: Factor = Factor.parse("0.7")
    """Transfers between GPUs."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if not 0 < float(value) <= 1:
                raise problem(info.alias or name, f"{value} is not more than 0 and at most 1")
        return self


class Overheads(Settings):
    """Times that no arithmetic explains, in microseconds."""

    step_us: Factor = Factor.parse(530)
    """Of every step."""

    layer_us: Factor = Factor.parse(52)
    """Of every layer of a step."""

    seq_us: Factor = Factor.parse(24)
    """Of every sequence of a step."""

    mixed_step_us: Factor = Factor.parse(300)
    """Of a step with a prompt in it."""

    all_reduce_us: Factor = Factor.parse("4.8")
    """Of each of the two all-reduces of a layer, with more than one GPU."""

    moe_expert_layer_us: Factor = Factor.parse("5.5")
    """Of each expert that is used in each layer, for at most 16 experts."""


_NAME: Final = StringConstraints(min_length=1, max_length=63)


class RooflineTiming(Settings):
    """Lengths of steps from the model's shape and the hardware's numbers."""

    model: Annotated[str, _NAME] | None = None
    """Name of a shipped model shape, such as `Llama-3.1-8B`; exactly one of `model` and `geometry` is given."""

    geometry: Geometry | None = None
    """Shape of the model."""

    gpu: Annotated[str, _NAME] | None = None
    """Name of a shipped GPU, such as `H100-SXM`; exactly one of `gpu` and `hardware` is given."""

    hardware: Hardware | None = None
    """Numbers of the GPU."""

    tensor_parallel: Annotated[Whole, Field(ge=1, le=64)] = 1
    """GPUs that share every layer."""

    weights: Precision = Precision.BF16
    """How the weights are kept. Products are computed in the same precision, with `INT4` in 16 bits."""

    kv_cache_dtype: CachePrecision = CachePrecision.BF16
    """How keys and values are kept."""

    soft_max: Factor = Factor.parse(2)
    """How hard the longer of weight reading and computation wins, 1 to 64: 1 adds them."""

    memory_factor: Factor = Factor.parse(1)
    """Factor on the times of memory reads; the one number by which a GPU without measurements is corrected."""

    efficiency: Efficiency = Efficiency()
    """Shares of the hardware's best that are reached."""

    overheads: Overheads = Overheads()
    """Times that no arithmetic explains."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        check_soft_max(self.soft_max)
        if not float(self.memory_factor):
            raise problem("memoryFactor", "must be more than 0")
        _check_choice("model", self.model, "geometry", self.geometry, model_geometries())
        _check_choice("gpu", self.gpu, "hardware", self.hardware, gpus())
        return self

    @property
    def shape(self) -> Geometry:
        """The model's shape, by name or as given."""
        return self.geometry or model_geometries()[self.model or ""]

    @property
    def device(self) -> Hardware:
        """The GPU's numbers, by name or as given."""
        return self.hardware or gpus()[self.gpu or ""]


def _check_choice(path: str, name: str | None, other: str, given: object, known: dict[str, Any]) -> None:
    if (name is None) == (given is None):
        raise problem(path, f"set exactly one of {path} and {other}; {'both' if given else 'neither'} is given")
    if name is not None and name not in known:
        guess = nearest(name, known)
        hint = f"did you mean {guess!r}?" if guess else f"known are {', '.join(known)}"
        raise problem(path, f"{name!r} is not known; {hint} Others are described by {other}")


def _shipped(name: str) -> dict[str, Any]:
    text = resources.files("ghostfleet_simulator").joinpath("data", name).read_text()
    return {key: row for key, row in json.loads(text).items() if not key.startswith("_")}


@cache
def model_geometries() -> dict[str, Geometry]:
    """The shipped model shapes by name."""
    return {name: Geometry.model_validate(row) for name, row in _shipped("models.json").items()}


@cache
def gpus() -> dict[str, Hardware]:
    """The shipped GPUs by name."""
    return {name: Hardware.model_validate(row) for name, row in _shipped("gpus.json").items()}
