"""The `simple` step timer: llm-d-inference-sim's latency keys, exact to the microsecond.

Source of the law: llm-d-inference-sim latencies.go. Where that truncates every mean, deviation and sample to whole
milliseconds, this one keeps microseconds.
"""

from __future__ import annotations

from random import Random

from ghostfleet_simulator.config import LatencyCalculator, SimpleTiming
from ghostfleet_simulator.units import Duration

_CUT = 0.7
"""Samples lie within 70 % of the mean."""


class SimpleTimer:
    """Times of one sequence: to its first token, and between tokens. All in microseconds."""

    def __init__(self, timing: SimpleTiming, max_num_seqs: int, rng: Random) -> None:
        self.tick_us = max(1, timing.tick.us)
        self._rng = rng
        self._first = timing.time_to_first_token.us, timing.time_to_first_token_std_dev.us
        self._gap = timing.inter_token_latency.us, timing.inter_token_latency_std_dev.us
        self._prefill = (
            timing.prefill_overhead.us,
            timing.prefill_time_per_token.ns / 1000,
            timing.prefill_time_std_dev.us,
        )
        self._transfer = timing.kv_cache_transfer_latency.us, timing.kv_cache_transfer_latency_std_dev.us
        self._transfer_per_token = (
            timing.kv_cache_transfer_time_per_token.ns / 1000,
            timing.kv_cache_transfer_time_std_dev.us,
        )
        self.transfers = bool(self._transfer[0] or self._transfer_per_token[0])
        """Whether it says how long a transfer takes."""
        calculator = timing.latency_calculator
        self._constant = _chosen(calculator, timing.time_to_first_token, timing.time_to_first_token_std_dev)
        self._constant_transfer = _chosen(
            calculator, timing.kv_cache_transfer_latency, timing.kv_cache_transfer_latency_std_dev
        )
        self._slope = (float(timing.time_factor_under_load) - 1) / (max_num_seqs - 1) if max_num_seqs > 1 else 0.0
        self.constant_gap_us = self._gap[0] if self._slope == 0 and self._gap[1] == 0 else None
        """The gap between tokens when it is the same for all, else None: the pacer then need not ask per token."""

    def first_token_us(self, prompt_tokens: int, running: int) -> int:
        """Time from admission to the first token of a prompt while `running` sequences run, this one included."""
        load = self._load(running)
        if self._constant:
            mean, deviation = self._first
            return self._sample(mean * load, deviation)
        overhead, per_token, deviation = self._prefill
        return self._sample((overhead + prompt_tokens * per_token) * load, deviation)

    def transfer_us(self, prompt_tokens: int) -> int:
        """Time from admission to the first token of a prompt that was computed elsewhere; its KV cache comes here."""
        if self._constant_transfer:
            return self._sample(*self._transfer)
        per_token, deviation = self._transfer_per_token
        return self._sample(prompt_tokens * per_token, deviation)

    def gap_us(self, running: int) -> int:
        """Time between two tokens while `running` sequences run."""
        mean, deviation = self._gap
        return self._sample(mean * self._load(running), deviation)

    def _load(self, running: int) -> float:
        return 1 + self._slope * (running - 1)

    def _sample(self, mean: float, deviation: float) -> int:
        if not deviation:
            return round(mean)
        return round(min(max(self._rng.gauss(mean, deviation), (1 - _CUT) * mean), (1 + _CUT) * mean))


def _chosen(calculator: LatencyCalculator, *constant: Duration) -> bool:
    """Whether a constant time is taken and not the one per token."""
    if calculator is LatencyCalculator.AUTO:
        return any(time.ns for time in constant)
    return calculator is LatencyCalculator.CONSTANT
