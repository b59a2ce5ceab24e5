"""Pacing under the `simple` timer: every sequence has due times of its own, whatever else runs."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final

from ghostfleet_simulator.config import Profile
from ghostfleet_simulator.engine.adapters import AdapterTimer, Load
from ghostfleet_simulator.engine.pacing import Pacer
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.simple import SimpleTimer
from ghostfleet_simulator.engine.step import Step

_BUSY: Final = 64
"""Sequences running from which only every second moment of a gap is used; every fourth from twice as many on."""
_LONGEST_STRIDE: Final = 4


class RequestPacer(Pacer):
    """Due times per sequence; a slot holds the sequences whose tokens come out together.

    Due times are absolute: a late call does not shift those that follow. Where the gap between tokens is the same for
    all, the first token of a sequence is put off to the next of some evenly spaced moments of the gap, a tick apart or
    a little more, and every later one is due exactly a gap after the one before. On a busy server the moments are
    fewer, and it is the nearest of them. Where the gap varies, each token is put off to the next tick, which does not
    move those after it.
    """

    def __init__(self, scheduler: Scheduler, preempted: Callable[[Sequence], None], seed: int) -> None:
        super().__init__(scheduler, preempted)
        self._rng = Random(f"{seed}/step times")
        self._slots: dict[int, list[Sequence]] = {}
        self._times: list[int] = []
        """Keys of `_slots` as a heap, with some that are not there any more."""
        self._wake_us: int | None = None
        self._stride = 1
        """One in how many moments of a constant gap is used."""
        self._blocked = False
        """The last pass left sequences in the queue."""
        self._loaded_us: dict[int, int] = {}
        """When adapters that were loaded last, by their ids, are there."""
        self._link_us = 0
        """When the last of them is: they are loaded one after the other."""
        self.use(Profile())

    def use(self, profile: Profile) -> None:
        """Take over a profile: due times that are already set stay, later ones follow it."""
        timer = SimpleTimer(profile.simple, self._scheduler.max_num_seqs, self._rng)
        self._adapters = AdapterTimer(profile.lora)
        self._timer, self._tick_us, gap_us = timer, timer.tick_us, timer.constant_gap_us
        self._phases = 0 if gap_us is None else gap_us // timer.tick_us
        """Into how many moments a constant gap is divided; 0 where there is none, or only one shorter than a tick."""
        self._reschedule(0)

    def start(self, now_us: int) -> None:
        """Take over: a prompt that is half computed is paid for as if it began now."""
        self._blocked, self._wake_us = True, None
        running = len(self._scheduler.running)
        for seq in self._scheduler.prefilling:
            seq.due_us = now_us + self._first_token_us(seq, running)

    def resume(self, frozen_us: int) -> None:
        """What waits is paid for from now on."""
        self._blocked, self._wake_us = True, None
        if frozen_us:
            for seq in self._scheduler.prefilling:
                seq.due_us += frozen_us
            self._reschedule(frozen_us)

    def _reschedule(self, later_us: int) -> None:
        """Put every pending sequence anew, `later_us` later."""
        pending = [seq for at_us in sorted(self._slots) for seq in self._slots[at_us] if seq.slot_us == at_us]
        self._slots.clear()
        self._times.clear()
        for seq in pending:
            seq.due_us += later_us
            self._schedule(seq, seq.due_us)

    def leave(self, now_us: int) -> list[Sequence]:  # noqa: ARG002 - every decoding sequence has a due time
        """Nothing is given back."""
        return []

    def release(self, sequences: list[Sequence]) -> None:
        """Nothing is held once it was due."""

    def due(self, now_us: int) -> list[Sequence]:
        """The sequences due by now, earliest first; at most a budget of them."""
        times, slots, budget = self._times, self._slots, self._scheduler.budget
        due: list[Sequence] = []
        while times and times[0] <= now_us:
            at_us = heappop(times)
            slot = slots.pop(at_us, None)
            if slot is None:
                continue
            for index, seq in enumerate(slot):
                if seq.slot_us != at_us:  # preempted or aborted since, or a second entry of a sequence taken already
                    continue
                if len(due) == budget:
                    slots[at_us] = slot[index:]
                    heappush(times, at_us)
                    return due
                seq.slot_us = -1
                due.append(seq)
        return due

    def join(self, sequences: list[Sequence]) -> None:
        """Set when the next token of each is due."""
        timer, phases, tick_us, slots, times = self._timer, self._phases, self._tick_us, self._slots, self._times
        constant_us, running = timer.constant_gap_us, len(self._scheduler.running)
        last_us = -1
        append: Callable[[Sequence], None]
        for seq in sequences:
            due_us = seq.due_us + (timer.gap_us(running) if constant_us is None else constant_us)
            if phases and due_us == last_us:
                due_us = last_us  # one object for all, still in the processor's cache when the next one takes it
            seq.due_us = due_us
            at_us = seq.slot_us = due_us if phases else -(-due_us // tick_us) * tick_us
            if at_us != last_us:
                last_us, slot = at_us, slots.get(at_us)
                if slot is None:
                    slot = slots[at_us] = []
                    heappush(times, at_us)
                append = slot.append
            append(seq)

    def plan(self, step: Step, now_us: int) -> None:
        """Continue prompts and admit; the time to the first token counts from when there was room for the sequence."""
        scheduler = self._scheduler
        # When this pass was due, which a late one does not change.
        at_us = now_us if self._wake_us is None else min(now_us, self._wake_us)
        budget, complete, admitted = self._compute(scheduler.budget - len(step.tokens), step, now_us)
        for seq in complete:
            self._schedule(seq, now_us)
        for load in scheduler.adapters.settle():
            self.load(load, at_us)
        if admitted:
            freed_us = at_us if self._blocked or step.finished else 0
            running = len(scheduler.running)
            for seq in admitted:
                # A recomputed sequence pays for its prompt and what it had said; what the prefix cache holds is free.
                begin_us = at_us if seq.preemptions or seq.loaded else max(seq.queued_us, freed_us)
                if seq.lora is not None:
                    begin_us = max(begin_us, self._loaded_us.get(seq.lora.id, 0))
                seq.due_us = begin_us + self._first_token_us(seq, running)
                if seq not in scheduler.prefilling:
                    self._schedule(seq, now_us)
        if admitted or step.finished:
            self._adapt()
        self._blocked = bool(scheduler.waiting)
        self._wake_us = self.wake_us()
        # A pass that ran out of budget, or that preempted, has left work that time alone will not bring back.
        if scheduler.prefilling or (scheduler.waiting and (budget <= 0 or step.preempted)):
            following = (now_us // self._tick_us + 1) * self._tick_us
            self._wake_us = following if self._wake_us is None else min(self._wake_us, following)
        step.wake_us = self._wake_us

    def load(self, load: Load, now_us: int) -> int:
        """The sequences of the adapter wait for it, and nobody else."""
        loaded_us = self._loaded_us
        for done in [other for other, there_us in loaded_us.items() if there_us <= now_us]:
            del loaded_us[done]
        self._link_us = max(now_us, self._link_us) + self._adapters.load_us([load])
        loaded_us[load.adapter.id] = self._link_us
        return self._link_us

    def wake_us(self) -> int | None:
        """The first moment at which a token is due."""
        times = self._times
        while times and times[0] not in self._slots:
            heappop(times)
        return times[0] if times else None

    def forget(self, seq: Sequence) -> None:
        """The sequence stays in its slot and is passed over there."""
        seq.slot_us = -1

    def _adapt(self) -> None:
        """Have the sequences of a busy server share moments, as those of a real one share a step."""
        running, stride = len(self._scheduler.running), self._stride
        while stride < _LONGEST_STRIDE and running >= _BUSY * stride:
            stride *= 2
        if stride > self._stride:
            self._stride = stride
            self._reschedule(0)
        elif stride > 1 and running * 4 < _BUSY * stride:
            self._stride = stride // 2

    def transfer_us(self, seq: Sequence) -> int | None:
        """By llm-d-inference-sim's keys, where they are set."""
        return self._timer.transfer_us(len(seq.prompt)) if self._timer.transfers else None

    def _first_token_us(self, seq: Sequence, running: int) -> int:
        incoming = seq.incoming
        if incoming is not None and not seq.preemptions:  # what was transferred is lost with a preemption
            if incoming.source is None:
                return self._timer.transfer_us(len(seq.prompt))
            if seq.loaded:
                return 0
        return self._timer.first_token_us(seq.num_tokens - seq.reused, running)

    def _schedule(self, seq: Sequence, earliest_us: int) -> None:
        """Put a sequence where its token is due: of the moments of a constant gap, the nearest since `earliest_us`."""
        if self._phases:
            gap_us, phases, stride = self._timer.constant_gap_us or 0, self._phases, self._stride
            turns, within_us = divmod(seq.due_us, gap_us)
            phase = -(-within_us * phases // (gap_us * stride)) * stride
            at_us = turns * gap_us + min(phase, phases) * gap_us // phases
            if stride > 1 and phase:
                before_us = turns * gap_us + (phase - stride) * gap_us // phases
                if before_us >= earliest_us and seq.due_us - before_us < at_us - seq.due_us:
                    at_us = before_us
            seq.due_us = at_us
        else:
            at_us = -(-seq.due_us // self._tick_us) * self._tick_us
        seq.slot_us = at_us
        slot = self._slots.get(at_us)
        if slot is None:
            self._slots[at_us] = [seq]
            heappush(self._times, at_us)
        else:
            slot.append(seq)
