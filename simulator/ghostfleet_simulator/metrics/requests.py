"""The last requests of a server, for people who ask what became of one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from ghostfleet_simulator.engine.sequence import Load

CAPACITY: Final = 256
"""How many requests are remembered."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What became of one sequence, or of a request that was answered with an injected failure. Times are seconds."""

    id: str
    model: str
    ended_at: float
    """Unix time."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    queue_time: float | None = None
    time_to_first_token: float | None = None
    latency: float | None = None
    finish_reason: str | None = None
    rank: int | None = 0
    """Data-parallel rank; None where it failed before it had one."""
    fault: str | None = None
    found: Load | None = None
    """What the server was doing when it came."""

    def to_json(self) -> dict[str, Any]:
        """As the admin API tells it; what did not happen is null."""
        running, waiting, kv_usage = self.found or (None, None, None)
        return {
            "id": self.id,
            "model": self.model,
            "endedAt": self.ended_at,
            "promptTokens": self.prompt_tokens,
            "cachedTokens": self.cached_tokens,
            "completionTokens": self.completion_tokens,
            "foundRunning": running,
            "foundWaiting": waiting,
            "foundKvUsage": kv_usage,
            "queueSeconds": self.queue_time,
            "timeToFirstTokenSeconds": self.time_to_first_token,
            "latencySeconds": self.latency,
            "finishReason": self.finish_reason,
            "rank": self.rank,
            "fault": self.fault,
        }


class RequestLog:
    """A ring of the last requests."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=capacity)
        self.total = 0
        """How many there have been."""

    def add(self, record: RequestRecord) -> None:
        """Remember a request, and forget the oldest if there is no room."""
        self._records.appendleft(record)
        self.total += 1

    def newest(self, limit: int = CAPACITY) -> list[RequestRecord]:
        """At most `limit` of them, the one that ended last first."""
        return list(islice(self._records, limit))
