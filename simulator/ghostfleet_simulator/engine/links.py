"""A link between servers: what is under way over it shares its bandwidth in equal parts."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K")
_NEGLIGIBLE_US = 1e-6


class Link(Generic[K]):
    """Transfers by key. Times are microseconds; calls come in the order of time.

    Processor sharing: `_served` is what each transfer under way has got since the link was made, so one that begins at
    `s` ends when that is `s` plus its size, however many others come and go.
    """

    def __init__(self, bytes_per_second: int, latency_us: int) -> None:
        """`latency_us` passes between the last byte and the end of a transfer."""
        self._rate = bytes_per_second / 1e6
        self._latency_us = latency_us
        self._served = 0.0
        self._at_us = 0.0
        self._flows: list[tuple[float, int, K]] = []
        self._late: list[tuple[float, int, K]] = []
        """Those whose last byte has come, by the time of their end."""
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._flows) + len(self._late)

    def begin(self, key: K, size: int, now_us: int) -> None:
        """Transfer `size` bytes from now on."""
        self._serve(now_us)
        heappush(self._flows, (self._served + size, next(self._numbers), key))

    def end_at(self, key: K, at_us: int) -> None:
        """Have a transfer end at a time that is known beforehand; it takes no bandwidth."""
        heappush(self._late, (at_us, next(self._numbers), key))

    def drop(self, key: K, now_us: int) -> None:
        """A transfer is given up, if it is under way."""
        self._serve(now_us)
        for heap in (self._flows, self._late):
            heap[:] = [entry for entry in heap if entry[2] != key]
            heapify(heap)

    def settle(self, now_us: int) -> list[K]:
        """The transfers that have ended by now, in the order in which they did."""
        self._serve(now_us)
        ended = []
        while self._late and self._late[0][0] <= now_us + _NEGLIGIBLE_US:
            ended.append(heappop(self._late)[2])
        return ended

    @property
    def wake_us(self) -> int | None:
        """When a transfer ends next, or gets more bandwidth because another one has."""
        times = [self._late[0][0]] if self._late else []
        if self._flows:
            times.append(self._at_us + (self._flows[0][0] - self._served) * len(self._flows) / self._rate)
        return math.ceil(min(times) - _NEGLIGIBLE_US) if times else None

    def _serve(self, now_us: int) -> None:
        flows = self._flows
        while flows:
            left_us = max(0.0, flows[0][0] - self._served) * len(flows) / self._rate
            if self._at_us + left_us > now_us + _NEGLIGIBLE_US:
                self._served += max(0.0, now_us - self._at_us) * self._rate / len(flows)
                break
            self._at_us += left_us
            self._served, number, key = heappop(flows)
            heappush(self._late, (self._at_us + self._latency_us, number, key))
        self._at_us = max(self._at_us, now_us) if flows else float(now_us)
