"""Request metrics of the HTTP layer, as prometheus-fastapi-instrumentator 7 makes them for vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ghostfleet_simulator.metrics.families import (
    AnySeries,
    Family,
    Histogram,
    Kind,
    Scalar,
    Summary,
    Time,
    histograms,
    scalars,
    summaries,
)

_MOVES: Final = "When a response has ended, a streamed one with its last chunk."

REQUESTS = Family(
    "http_requests",
    Kind.COUNTER,
    "Total number of requests by method, status and handler.",
    f"{_MOVES} `status` is grouped (`2xx`); `handler` is the route, `none` for an unknown path.",
    ("method", "status", "handler"),
)
REQUEST_SIZE = Family(
    "http_request_size_bytes",
    Kind.SUMMARY,
    "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. "
    "No percentile calculated. ",
    _MOVES,
    ("handler",),
)
RESPONSE_SIZE = Family(
    "http_response_size_bytes",
    Kind.SUMMARY,
    "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. "
    "No percentile calculated. ",
    f"{_MOVES} A stream has no length and counts as 0.",
    ("handler",),
)
DURATION_FINE = Family(
    "http_request_duration_highr_seconds",
    Kind.HISTOGRAM,
    "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
    _MOVES,
    (),
    (
        *(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5),
        *(10.0, 30.0, 60.0),
    ),
)
DURATION = Family(
    "http_request_duration_seconds",
    Kind.HISTOGRAM,
    "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ",
    _MOVES,
    ("method", "handler"),
    (0.1, 0.5, 1.0),
)


@dataclass(frozen=True, slots=True)
class _Cells:
    requests: Scalar
    request_size: Summary
    response_size: Summary
    duration: Histogram


class HttpMetrics:
    """Counts requests by route, method and class of status."""

    def __init__(self, now: Time) -> None:
        self._requests = scalars(REQUESTS, now)
        self._request_size = summaries(REQUEST_SIZE, now)
        self._response_size = summaries(RESPONSE_SIZE, now)
        fine = histograms(DURATION_FINE, now)
        self._fine = fine.cell()
        self._duration = histograms(DURATION, now)
        self._known: dict[tuple[str, str, int], _Cells] = {}
        self.series: list[AnySeries] = [
            self._requests,
            self._request_size,
            self._response_size,
            fine,
            self._duration,
        ]

    def observe(
        self, handler: str, method: str, status: int, request_bytes: int, response_bytes: int, seconds: float
    ) -> None:
        """Count a request; sizes are those of the Content-Length headers, 0 without one."""
        key = (handler, method, status)
        cells = self._known.get(key)
        if cells is None:
            cells = self._known[key] = self._made(*key)
        cells.requests.value += 1
        cells.request_size.observe(request_bytes)
        cells.response_size.observe(response_bytes)
        cells.duration.observe(seconds)
        self._fine.observe(seconds)

    def _made(self, handler: str, method: str, status: int) -> _Cells:
        return _Cells(
            self._requests.cell(method, f"{status // 100}xx", handler),
            self._request_size.cell(handler),
            self._response_size.cell(handler),
            self._duration.cell(method, handler),
        )
