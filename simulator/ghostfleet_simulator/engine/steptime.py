"""The `StepTime` backend: the length of a step from coefficients that were measured or fitted."""

from __future__ import annotations

from ghostfleet_simulator.config import StepTimeTiming
from ghostfleet_simulator.engine.steps import StepFeatures


def soft_maximum(one: float, other: float, exponent: float) -> float:
    """`(one^exponent + other^exponent)^(1/exponent)`: their sum at 1, nearly the greater of them from 6 on."""
    if not one or not other:
        return one or other
    low, high = (one, other) if one < other else (other, one)
    # Scaled by the greater one, so that no power overflows.
    return float(high * (1 + (low / high) ** exponent) ** (1 / exponent))


class StepTimeTimer:
    """Reading the weights and computing overlap (soft maximum); everything else adds up."""

    def __init__(self, timing: StepTimeTiming) -> None:
        self._weights, self._token = float(timing.weight_read_us), float(timing.per_token_us)
        self._exponent = float(timing.soft_max)
        self._base, self._seq = float(timing.base_us), float(timing.per_seq_us)
        self._context, self._attention = float(timing.per_ctx_token_us), float(timing.per_attn_work_us)
        self._prefill, self._mixed = float(timing.per_prefill_req_us), float(timing.mixed_step_us)

    def step_us(self, work: StepFeatures) -> float:
        """Length of a step in microseconds."""
        result = soft_maximum(self._weights, self._token * work.tokens, self._exponent) * (1 + work.adapter_share)
        result += self._base + self._seq * work.sequences + self._context * work.decode_context
        if work.prefills:
            result += self._attention * work.prefill_work + self._prefill * work.prefills + self._mixed
        return result
