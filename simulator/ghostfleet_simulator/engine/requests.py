"""Pacing under the `simple` timer: every sequence has due times of its own, whatever else runs."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

from ghostfleet_simulator.config import Profile
from ghostfleet_simulator.engine.pacing import Pacer
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.simple import SimpleTimer
from ghostfleet_simulator.engine.step import Step


class RequestPacer(Pacer):
    """Due times per sequence, rounded up to a grid of ticks; a bucket per tick holds the sequences that fall due there.

    Due times are absolute: a late call does not shift those that follow.
    """

    def __init__(self, scheduler: Scheduler, preempted: Callable[[Sequence], None], seed: int) -> None:
        super().__init__(scheduler, preempted)
        self._rng = Random(f"{seed}/step times")
        self._buckets: dict[int, list[Sequence]] = {}
        self._ticks: list[int] = []
        self._wake_us: int | None = None
        self._blocked = False
        """The last pass left sequences in the queue."""
        self.use(Profile())

    def use(self, profile: Profile) -> None:
        """Take over a profile: due times that are already set stay, later ones follow it."""
        timer = SimpleTimer(profile.simple, self._scheduler.max_num_seqs, self._rng)
        pending = [seq for tick in sorted(self._buckets) for seq in self._buckets[tick] if seq.due_tick == tick]
        self._timer, self._tick_us = timer, timer.tick_us
        self._buckets.clear()
        self._ticks.clear()
        for seq in pending:
            self._schedule(seq)

    def start(self, now_us: int) -> None:
        """Take over: a prompt that is half computed is paid for as if it began now."""
        self._blocked, self._wake_us = True, None
        running = len(self._scheduler.running)
        for seq in self._scheduler.prefilling:
            seq.due_us = now_us + self._timer.first_token_us(seq.num_tokens - seq.reused, running)

    def resume(self, frozen_us: int) -> None:
        """What waits is paid for from now on."""
        self._blocked, self._wake_us = True, None
        if not frozen_us:
            return
        pending = [seq for tick in sorted(self._buckets) for seq in self._buckets[tick] if seq.due_tick == tick]
        self._buckets.clear()
        self._ticks.clear()
        for seq in self._scheduler.prefilling:
            seq.due_us += frozen_us
        for seq in pending:
            seq.due_us += frozen_us
            self._schedule(seq)

    def leave(self, now_us: int) -> list[Sequence]:  # noqa: ARG002 - every decoding sequence has a due time
        """Nothing is given back."""
        return []

    def release(self, sequences: list[Sequence]) -> None:
        """Nothing is held once it was due."""

    def due(self, now_us: int) -> list[Sequence]:
        """The sequences due by now, earliest first; at most a budget of them."""
        last, ticks, buckets, budget = now_us // self._tick_us, self._ticks, self._buckets, self._scheduler.budget
        due: list[Sequence] = []
        while ticks and ticks[0] <= last:
            tick = heappop(ticks)
            bucket = buckets.pop(tick, None)
            if bucket is None:
                continue
            for index, seq in enumerate(bucket):
                if seq.due_tick != tick:  # preempted or aborted since, or a second entry of a sequence taken already
                    continue
                if len(due) == budget:
                    buckets[tick] = bucket[index:]
                    heappush(ticks, tick)
                    return due
                seq.due_tick = -1
                due.append(seq)
        return due

    def join(self, sequences: list[Sequence]) -> None:
        """Set when the next token of each is due."""
        timer, tick_us, buckets, ticks = self._timer, self._tick_us, self._buckets, self._ticks
        constant_gap, running = timer.constant_gap_us, len(self._scheduler.running)
        for seq in sequences:
            due_us = seq.due_us = seq.due_us + (timer.gap_us(running) if constant_gap is None else constant_gap)
            tick = seq.due_tick = -(-due_us // tick_us)
            bucket = buckets.get(tick)
            if bucket is None:
                buckets[tick] = [seq]
                heappush(ticks, tick)
            else:
                bucket.append(seq)

    def plan(self, step: Step, now_us: int) -> None:
        """Continue prompts and admit; the time to the first token counts from when there was room for the sequence."""
        scheduler = self._scheduler
        # When this pass was due, which a late one does not change.
        at_us = now_us if self._wake_us is None else min(now_us, self._wake_us)
        budget, complete, admitted = self._compute(scheduler.budget - len(step.tokens), step, now_us)
        for seq in complete:
            self._schedule(seq)
        if admitted:
            freed_us = at_us if self._blocked or step.finished else 0
            running = len(scheduler.running)
            for seq in admitted:
                # A recomputed sequence pays for its prompt and what it had said; what the prefix cache holds is free.
                begin_us = at_us if seq.preemptions else max(seq.queued_us, freed_us)
                seq.due_us = begin_us + self._timer.first_token_us(seq.num_tokens - seq.reused, running)
                if seq not in scheduler.prefilling:
                    self._schedule(seq)
        self._blocked = bool(scheduler.waiting)
        self._wake_us = self.wake_us()
        # A pass that ran out of budget, or that preempted, has left work that time alone will not bring back.
        if scheduler.prefilling or (scheduler.waiting and (budget <= 0 or step.preempted)):
            following = (now_us // self._tick_us + 1) * self._tick_us
            self._wake_us = following if self._wake_us is None else min(self._wake_us, following)
        step.wake_us = self._wake_us

    def wake_us(self) -> int | None:
        """The first tick at which a token is due."""
        ticks = self._ticks
        while ticks and ticks[0] not in self._buckets:
            heappop(ticks)
        return ticks[0] * self._tick_us if ticks else None

    def forget(self, seq: Sequence) -> None:
        """The sequence stays in its bucket and is passed over there."""
        seq.due_tick = -1

    def _schedule(self, seq: Sequence) -> None:
        tick = -(-seq.due_us // self._tick_us)
        seq.due_tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [seq]
            heappush(self._ticks, tick)
        else:
            bucket.append(seq)
