"""What vLLM 0.33 measures of sleep mode (entrypoints/serve/dev/sleep/metrics.py): there from the first such request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from ghostfleet_simulator.metrics.families import (
    AnySeries,
    Family,
    Histogram,
    Kind,
    Scalar,
    Series,
    Time,
    histograms,
    scalars,
)

OPERATION_DURATION = Family(
    "vllm:sleep_mode_operation_duration_seconds",
    Kind.HISTOGRAM,
    "Duration of one sleep-mode operation.",
    "When `/sleep`, `/release_kv_cache_memory` or `/wake_up` is answered. There from the first such request.",
    ("operation",),
    (0.01, 0.1, 1, 10, 30, 60, 120, 300, 600),
    per_unit=1_000_000,
)
OPERATIONS_IN_FLIGHT = Family(
    "vllm:sleep_mode_operations_in_flight",
    Kind.GAUGE,
    "Sleep-mode operations currently awaited.",
    "When such a request comes and when it is answered. There from the first one.",
    ("operation",),
)


class SleepOperations:
    """The series of sleep-mode operations; `add` is called with each of them when the first operation begins."""

    def __init__(self, add: Callable[[AnySeries], None], now: Time) -> None:
        self._add = add
        self._now = now
        self._series: tuple[Series[Histogram], Series[Scalar]] | None = None

    @contextmanager
    def record(self, operation: str) -> Iterator[None]:
        """Count an operation (`sleep`, `release_kv_cache_memory`, `wake`) while it is under way, and time it."""
        if self._series is None:
            self._series = histograms(OPERATION_DURATION, self._now), scalars(OPERATIONS_IN_FLIGHT, self._now)
            for series in self._series:
                self._add(series)
        duration, in_flight = self._series[0].cell(operation), self._series[1].cell(operation)
        began = perf_counter()
        in_flight.value += 1
        try:
            yield
        finally:
            in_flight.value -= 1
            duration.observe((perf_counter() - began) * 1e6)
