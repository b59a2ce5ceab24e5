"""The `Roofline` backend: the length of a step from the model's shape and the numbers of the GPU.

Weights are read once per step, and of experts only those that a token is routed to; products count every row, the
output layer only the row of each sequence. Reading and computing overlap (soft maximum). Keys and values are read at
decoding, attention is computed for prompts, two all-reduces per layer join the GPUs.
"""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.config import CachePrecision, Geometry, Hardware, Precision, RooflineTiming
from ghostfleet_simulator.engine.steps import StepFeatures
from ghostfleet_simulator.engine.steptime import soft_maximum

_BYTES: Final = {
    Precision.BF16: 2.0,
    Precision.FP8: 1.0,
    Precision.INT8: 1.0,
    Precision.FP4: 0.5,
    Precision.INT4: 0.5,
}
_DISPATCHED: Final = 16
"""Most experts of a model in the data that the cost of dispatching was fitted on."""
_US: Final = 1e6


class ModelSize:
    """Parameters of a decoder by how often they are used."""

    def __init__(self, shape: Geometry) -> None:
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.layers = shape.layers
        self.expert = 3 * shape.hidden * shape.ffn
        """Of one feed-forward part, or of one expert of a layer."""
        always = shape.shared_experts if shape.experts else 1
        self.layer = 2 * shape.hidden * (queries + keys) + always * self.expert + shape.hidden * shape.experts
        """Of a layer without the experts that are routed to: attention, router, what every token passes."""
        self.head = shape.hidden * shape.vocab
        """Of the output layer; the input embedding has as many, of which a token reads a row."""
        self.active = shape.layers * (self.layer + shape.experts_per_token * self.expert)
        """Used by one token, the output layer not counted."""
        self.total = shape.layers * (self.layer + shape.experts * self.expert) + 2 * self.head
        """All of them, with an input embedding of its own."""
        self.kv_per_token = 2 * shape.layers * keys
        """Numbers that the KV cache keeps of a token."""


class RooflineTimer:
    """Step times of one model on `tensor_parallel` GPUs of one kind."""

    def __init__(self, timing: RooflineTiming) -> None:
        shape, device, efficiency, overheads = timing.shape, timing.device, timing.efficiency, timing.overheads
        size, gpus = ModelSize(shape), timing.tensor_parallel
        width = _BYTES[timing.weights]
        read = float(timing.memory_factor) / (gpus * float(device.memory_gbps) * 1e9) * _US
        weight_read = read / float(efficiency.weight_read)
        self._shape, self._exponent = shape, float(timing.soft_max)
        self._weights = weight_read * (size.layers * size.layer * width + size.head * _BYTES[Precision.BF16])
        self._expert = weight_read * size.layers * size.expert * width
        products, full = _rates(device, timing)
        self._token = 2 * size.active / (gpus * products) * _US
        self._sampled = 2 * size.head / (gpus * full) * _US
        cached = 1.0 if timing.kv_cache_dtype is CachePrecision.FP8 else 2.0
        # A key-value head is kept by every GPU that needs it, so more GPUs than heads do not share the reading.
        sharing = gpus / min(gpus, shape.kv_heads)
        self._context = read * sharing / float(efficiency.kv_read) * size.kv_per_token * cached
        rate = gpus * float(device.tflops16) * 1e12 * float(efficiency.attention)
        self._attention = 4 * shape.layers * shape.heads * shape.head_dim / rate * _US
        link = float(device.link_gbps) * 1e9 * float(efficiency.link)
        self._base = float(overheads.step_us) + shape.layers * float(overheads.layer_us)
        if gpus > 1:
            self._base += 2 * shape.layers * float(overheads.all_reduce_us)
            self._token += 2 * shape.layers * shape.hidden * 2 * 2 * (gpus - 1) / (gpus * link) * _US
        self._seq, self._mixed = float(overheads.seq_us), float(overheads.mixed_step_us)
        self._dispatch = shape.layers * float(overheads.moe_expert_layer_us)

    def step_us(self, work: StepFeatures) -> float:
        """Length of a step in microseconds."""
        weights, result = self._weights, self._base
        if experts := self._shape.experts:
            missed = 1 - self._shape.experts_per_token / experts
            used = experts * (1 - missed**work.tokens)
            weights += used * self._expert
            result += min(used, _DISPATCHED) * self._dispatch
        products = self._token * work.tokens + self._sampled * work.sequences
        result += soft_maximum(weights, products, self._exponent) * (1 + work.adapter_share)
        result += self._seq * work.sequences + self._context * work.decode_context
        if work.prefills:
            result += self._attention * work.prefill_work + self._mixed
        return result


def _rates(device: Hardware, timing: RooflineTiming) -> tuple[float, float]:
    """FLOP/s of one GPU that are reached by products with the weights, and with 16-bit numbers."""
    bf16, fp8, fp4 = float(device.tflops16), float(device.tflops8), float(device.tflops4)
    full = bf16 * float(timing.efficiency.gemm16) * 1e12
    eight = fp8 * float(timing.efficiency.gemm8) * 1e12 or full
    four = fp4 * float(timing.efficiency.gemm8) * 1e12 or eight
    products = {Precision.FP8: eight, Precision.INT8: eight, Precision.FP4: four}.get(timing.weights, full)
    return products, full
