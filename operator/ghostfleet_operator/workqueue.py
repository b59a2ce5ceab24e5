"""A work queue over keys: duplicates collapse, a key is worked on by one worker at a time, failures back off.

`Schedule` is the rule without a clock or an event loop; `WorkQueue` waits and has the work done; `WriteBudget` bounds
the rate of what that writes.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Schedule(Generic[K]):
    """Which key is due when. Times are seconds of any clock that the caller uses throughout.

    Invariants: a key is queued at most once, at the earliest time asked for; a key that is taken is not given out again
    before `done`; what is added meanwhile is queued by `done`.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._queued: dict[K, tuple[float, int]] = {}
        self._taken: set[K] = set()
        self._again: dict[K, float] = {}
        self._order = itertools.count()
        self.lateness = 0.0
        """How long after its time the key was taken that was taken last."""

    def __len__(self) -> int:
        """Keys that wait, those that are added while taken included."""
        return len(self._queued) + len(self._again)

    @property
    def taken(self) -> int:
        """Keys that are being worked on."""
        return len(self._taken)

    def due(self, now: float) -> int:
        """Keys that could be taken at `now`."""
        return sum(1 for at, _ in self._queued.values() if at <= now)

    def add(self, key: K, at: float) -> None:
        """Have `key` due at `at` or, where it is queued for earlier, then."""
        if key in self._taken:
            self._again[key] = min(at, self._again.get(key, at))
        elif key not in self._queued or at < self._queued[key][0]:
            entry = (at, next(self._order))
            self._queued[key] = entry
            heapq.heappush(self._heap, (*entry, key))

    def take(self, now: float) -> K | None:
        """The key that has been due longest, now taken; None where none is due."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        at, _, key = heapq.heappop(self._heap)
        self.lateness = now - at
        del self._queued[key]
        self._taken.add(key)
        return key

    def done(self, key: K) -> None:
        """Give back a key that was taken."""
        self._taken.remove(key)
        if key in self._again:
            self.add(key, self._again.pop(key))

    def next_at(self) -> float | None:
        """When the next key falls due; None where nothing is queued."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def _drop_stale(self) -> None:
        # A key moved to an earlier time leaves its old entry behind; only the entry in `_queued` counts.
        while self._heap and self._queued.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a key that failed waits, in seconds: `first`, doubled with every failure in a row, at most `longest`.

    Each wait is spread by up to `spread` of it in both directions.
    """

    first: float = 1.0
    longest: float = 300.0
    spread: float = 0.2

    def delay(self, failures: int, rng: random.Random) -> float:
        """The wait after the `failures`-th failure in a row (1 is the first)."""
        plain = min(self.longest, self.first * 2.0 ** min(failures - 1, 60))
        return plain * rng.uniform(1 - self.spread, 1 + self.spread)


class WorkQueue(Generic[K]):
    """A `Schedule` whose keys are worked on as they fall due, some at a time. For one event loop."""

    def __init__(self, *, clock: Callable[[], float], rng: random.Random, backoff: Backoff | None = None) -> None:
        self._clock = clock
        self._rng = rng
        self._backoff = backoff or Backoff()
        self._schedule: Schedule[K] = Schedule()
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self.adds = 0
        self.retries = 0
        self.waited: Callable[[float], None] | None = None
        """Is told for how many seconds a key that is taken was due."""

    @property
    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        return self._schedule.due(self._clock())

    @property
    def waiting(self) -> int:
        """Keys that wait, those with a delay included."""
        return len(self._schedule)

    @property
    def in_flight(self) -> int:
        """Keys that are being worked on."""
        return self._schedule.taken

    def add(self, key: K, delay: float = 0.0) -> None:
        """Have `key` worked on after `delay` seconds, or earlier where that was asked for."""
        self.adds += 1
        self._schedule.add(key, self._clock() + delay)
        self._changed.set()

    def failed(self, key: K) -> float:
        """Have `key` worked on again after its back-off; the seconds until then."""
        self._failures[key] = self._failures.get(key, 0) + 1
        self.retries += 1
        delay = self._backoff.delay(self._failures[key], self._rng)
        self.add(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)

    async def run(self, work: Callable[[K], Awaitable[None]], workers: int) -> None:
        """Call `work` for at most `workers` keys at a time until `close`; returns when the last call has ended.

        `work` must not raise: it decides between `succeeded`, `failed` and `add` itself.
        """
        # One waits for all: workers that waited each for themselves would all wake for every key.
        async with asyncio.TaskGroup() as group:
            while not self._closed:
                is_free = self._schedule.taken < workers
                key = self._schedule.take(self._clock()) if is_free else None
                if key is None:
                    await self._news(self._schedule.next_at() if is_free else None)
                    continue
                if self.waited:
                    self.waited(self._schedule.lateness)
                group.create_task(self._call(work, key), name=f"pass over {key}")

    def close(self) -> None:
        """Take no further key; calls under way end by themselves."""
        self._closed = True
        self._changed.set()

    async def _call(self, work: Callable[[K], Awaitable[None]], key: K) -> None:
        try:
            await work(key)
        finally:
            self._schedule.done(key)
            self._changed.set()

    async def _news(self, at: float | None) -> None:
        """Wait until `at`, or until anything was added, given back or closed."""
        self._changed.clear()
        try:
            async with asyncio.timeout(None if at is None else max(0.0, at - self._clock())):
                await self._changed.wait()
        except TimeoutError:
            return


class WriteBudget:
    """A token bucket: `rate` writes per second in the long run, `burst` of them at once; first come, first served."""

    def __init__(
        self,
        *,
        rate: float,
        burst: int,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(burst)
        self._at = clock()

    async def take(self) -> None:
        """Wait for the right to write once."""
        self._fill()
        # A debt is a place in the line: whoever comes later waits longer.
        self._tokens -= 1
        if self._tokens < 0:
            await self._sleep(-self._tokens / self._rate)

    def pause(self, seconds: float) -> None:
        """Let nobody write for some time, and no burst follow it: the other side asked for it."""
        self._fill()
        self._tokens = min(self._tokens, -seconds * self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now
