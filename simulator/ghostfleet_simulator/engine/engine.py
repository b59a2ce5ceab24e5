"""The engine: sequences in, tokens out, driven by `advance(now)`."""

from __future__ import annotations

from collections import defaultdict
from heapq import heappop, heappush
from random import Random

from ghostfleet_simulator.config import Profile, ServerConfig
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.engine.simple import SimpleTimer


class Step:
    """What one call of `advance` brought about. Lists are in the order of production."""

    __slots__ = ("finished", "first", "gaps", "preempted", "prompt_tokens", "tokens", "wake_us")

    def __init__(self) -> None:
        self.tokens: list[Sequence] = []
        """Each produced exactly one token."""
        self.first: list[Sequence] = []
        """Those of `tokens` whose token was the first of the answer."""
        self.finished: list[Sequence] = []
        """Those of `tokens` whose token was the last."""
        self.gaps: dict[int, int] = defaultdict(int)
        """Time since the previous token of the same sequence in microseconds -> how many of `tokens` had it."""
        self.prompt_tokens = 0
        """Prompt tokens, in whole, of the sequences in `first`."""
        self.preempted = 0
        """Sequences that lost their blocks."""
        self.wake_us: int | None = None
        """When `advance` wants to be called next; not after the present: at once; None: when a sequence is added."""


class Engine:
    """Sequences of one server under the `simple` timer.

    Every sequence has due times of its own, rounded up to a grid of ticks; a bucket per tick holds the sequences that
    fall due there. Due times are absolute: a late call does not shift those that follow. Each call gives a sequence at
    most one token, so a server without any latency still hands out its tokens a step at a time.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._scheduler = Scheduler(config.scheduling, config.kv_cache)
        self._rng = Random(f"{config.seed}/step times")
        self._buckets: dict[int, list[Sequence]] = {}
        self._ticks: list[int] = []
        self.preemptions = 0
        """Preemptions since the start."""
        self.use(config.profile)

    def use(self, profile: Profile) -> None:
        """Take over a profile: due times that are already set stay, later ones follow it."""
        timer = SimpleTimer(profile.simple, self._scheduler.max_num_seqs, self._rng)
        pending = [seq for tick in sorted(self._buckets) for seq in self._buckets[tick] if seq.due_tick == tick]
        self._timer, self._tick_us = timer, timer.tick_us
        self._buckets.clear()
        self._ticks.clear()
        for seq in pending:
            self._schedule(seq)

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue, preempted ones included."""
        return len(self._scheduler.waiting)

    @property
    def sequences(self) -> list[Sequence]:
        """Every sequence that has not ended: the running ones, then the queue."""
        return [*self._scheduler.running, *self._scheduler.waiting]

    @property
    def kv_usage(self) -> float:
        """Share of the KV-cache blocks in use, 0 to 1."""
        return self._scheduler.pool.usage

    def add(self, seq: Sequence, now_us: int) -> None:
        """Queue a sequence; the next `advance` admits it if it can. `ValueError` if it could never run to its end."""
        if not self._scheduler.fits(seq):
            raise ValueError(f"{seq.id}: {len(seq.prompt)} + {seq.target} tokens do not fit into the whole KV cache")
        self._scheduler.add(seq, now_us)

    def abort(self, seq: Sequence) -> None:
        """End a sequence without another token and free its blocks; a finished one is left as it is."""
        if seq.status is not Status.FINISHED:
            self._scheduler.remove(seq)
            seq.due_tick = -1
            seq.finish_reason = "abort"

    def advance(self, now_us: int) -> Step:
        """Produce the tokens that are due at `now_us`, then continue prompts and admit, and say when to come back."""
        step = Step()
        scheduler = self._scheduler
        budget = self._decode(step, now_us)
        preempted: list[Sequence] = []
        if scheduler.prefilling and budget > 0:
            budget, complete = scheduler.prefill(budget, preempted)
            step.preempted += len(preempted)
            for seq in preempted:
                seq.due_tick = -1
            for seq in complete:
                self._schedule(seq)
        if scheduler.waiting and not step.preempted:
            budget, admitted = scheduler.admit(budget, now_us)
            running = len(scheduler.running)
            for seq in admitted:
                # A recomputed sequence pays for its prompt and what it had said, as a prefill does.
                seq.due_us = now_us + self._timer.first_token_us(seq.num_tokens, running)
                if seq not in scheduler.prefilling:
                    self._schedule(seq)
        self.preemptions += step.preempted
        step.wake_us = self._wake(now_us, out_of_budget=budget <= 0, preempted=step.preempted > 0)
        return step

    def _wake(self, now_us: int, *, out_of_budget: bool, preempted: bool) -> int | None:
        ticks = self._ticks
        while ticks and ticks[0] not in self._buckets:
            heappop(ticks)
        wake = ticks[0] * self._tick_us if ticks else None
        scheduler = self._scheduler
        # A pass that ran out of budget, or that preempted, has left work that time alone will not bring back.
        if scheduler.prefilling or (scheduler.waiting and (out_of_budget or preempted)):
            following = (now_us // self._tick_us + 1) * self._tick_us
            wake = following if wake is None else min(wake, following)
        return wake

    def _schedule(self, seq: Sequence) -> None:
        tick = -(-seq.due_us // self._tick_us)
        seq.due_tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = [seq]
            heappush(self._ticks, tick)
        else:
            bucket.append(seq)

    def _due(self, now_us: int) -> list[Sequence]:
        """The sequences due by now, earliest first, taken out of their buckets; at most a budget of them."""
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

    def _decode(self, step: Step, now_us: int) -> int:
        """Produce one token for every sequence due, up to the budget; returns what is left of it."""
        due = self._due(now_us)
        scheduler, timer = self._scheduler, self._timer
        tick_us, buckets, ticks = self._tick_us, self._buckets, self._ticks
        tokens, gaps = step.tokens, step.gaps
        constant_gap, running_status = timer.constant_gap_us, Status.RUNNING
        running = len(scheduler.running)
        for seq in due:
            if seq.status is not running_status:  # preempted by one before it in this very pass
                continue
            produced = seq.produced = seq.produced + 1
            tokens.append(seq)
            if produced > 1:
                gaps[now_us - seq.last_token_us] += 1
            else:
                seq.first_token_us = now_us
                step.first.append(seq)
                step.prompt_tokens += len(seq.prompt)
            seq.last_token_us = now_us
            if produced == seq.target:
                self._finish(seq, step)
                continue
            seq.room -= 1
            if seq.room < 0:
                for victim in scheduler.grow(seq):
                    victim.due_tick = -1
                    step.preempted += 1
                if seq.status is not Status.RUNNING:
                    continue
            due_us = seq.due_us = seq.due_us + (timer.gap_us(running) if constant_gap is None else constant_gap)
            tick = seq.due_tick = -(-due_us // tick_us)
            bucket = buckets.get(tick)
            if bucket is None:
                buckets[tick] = [seq]
                heappush(ticks, tick)
            else:
                bucket.append(seq)
        return scheduler.budget - len(tokens)

    def _finish(self, seq: Sequence, step: Step) -> None:
        seq.due_tick = -1
        self._scheduler.remove(seq)
        seq.finish_reason = seq.answer.finish_reason
        seq.stop_reason = seq.answer.stop_reason
        step.finished.append(seq)
