"""Pacing by steps: one step is computed at a time, and the tokens of its whole batch come out at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice

from ghostfleet_simulator.config import LoraTiming, Profile, StepTimeTiming
from ghostfleet_simulator.engine.adapters import AdapterTimer, Load
from ghostfleet_simulator.engine.noise import ApiDelay, StepNoise
from ghostfleet_simulator.engine.pacing import Pacer
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.engine.steps import StepFeatures, StepTimer
from ghostfleet_simulator.engine.steptime import StepTimeTimer
from ghostfleet_simulator.engine.timers import step_timer


class BatchPacer(Pacer):
    """Steps follow each other without a gap while there is work; an idle engine begins one when a sequence arrives.

    When a step ends and what is in it follows from arrivals and lengths alone: a late call changes neither. With
    asynchronous scheduling a step is put together while the one before it runs, so a sequence that arrives in a step
    is not in the next one either (vLLM 0.33 v1/engine/core.py, `step_with_batch_queue`).
    """

    def __init__(self, scheduler: Scheduler, preempted: Callable[[Sequence], None], seed: int) -> None:
        super().__init__(scheduler, preempted)
        self._timer: StepTimer = StepTimeTimer(StepTimeTiming())
        self._adapters = AdapterTimer(LoraTiming())
        self._lag = 0
        self._noise = StepNoise(seed)
        self._api = ApiDelay(seed)
        self._arriving: dict[Sequence, int] = {}
        """When each comes to the scheduler."""
        self._decoding: dict[Sequence, None] = {}
        """Sequences whose prompt is computed or is being computed in whole in this step."""
        self._context = 0
        """Tokens of all of them together."""
        self._idle: set[Sequence] = set()
        """Those of them that are not in this step."""
        self._began_us = 0
        """Begin of the last step."""
        self._end_us: int | None = None
        """End of the step that runs; None between steps."""
        self._ended_us = 0
        """End of the last step that ended."""
        self._follows = False
        """It ended in this very pass."""
        self._loaded_us = 0
        """When the adapters that were loaded between steps are there; no step computes anything before."""
        self._next_us: int | None = None
        """While no step runs: when there will be work."""
        self._resumed = False
        """There was a pause since the last step began."""

    @property
    def stepped(self) -> bool:
        """Whether a step ended with the last call of `due`."""
        return self._follows

    @property
    def ahead(self) -> bool:
        """Whether scheduling is asynchronous."""
        return self._lag > 0

    def use(self, profile: Profile) -> None:
        """Take over a profile; the step that runs keeps its end."""
        self._timer = step_timer(profile)
        self._adapters = AdapterTimer(profile.lora)
        self._noise.use(profile.noise)
        self._api.use(profile.api, profile.noise)
        self._lag = profile.api.async_steps

    def start(self, now_us: int) -> None:
        """Take over; what there is to do is seen in `plan`."""

    def resume(self, frozen_us: int) -> None:
        """The step that runs ends so much later; who came meanwhile is not in a step before now."""
        self._resumed = True
        if self._end_us is not None:
            self._began_us += frozen_us
            self._end_us += frozen_us

    def leave(self, now_us: int) -> list[Sequence]:
        """The step that runs is let out; the sequences that are not in it are given back."""
        idle = list(self._idle)
        for seq in idle:
            self.forget(seq)
            seq.due_us = now_us
        return idle

    @property
    def arriving(self) -> Collection[Sequence]:
        """Sequences that have not passed the API, or not the step in which they did."""
        return self._arriving

    def add(self, seq: Sequence, now_us: int) -> None:
        """Have a sequence queued once it has passed the API."""
        seq.queued_us = now_us
        self._arriving[seq] = now_us + self._api.sample_us(len(seq.prompt))

    def withdraw(self, seq: Sequence) -> bool:
        """Take back a sequence that is not in the queue yet; whether it was there."""
        return self._arriving.pop(seq, None) is not None

    def due(self, now_us: int) -> list[Sequence]:
        """The whole batch, if its step is over."""
        self._follows = self._end_us is not None and now_us >= self._end_us
        if self._end_us is None or not self._follows:
            return []
        self._ended_us, self._end_us = self._end_us, None
        idle = self._idle
        due = [seq for seq in self._decoding if seq not in idle] if idle else list(self._decoding)
        self._context += len(due)
        self._idle = set()
        return due

    def join(self, sequences: list[Sequence]) -> None:
        """Keep those that go on; those of another pacer wait for the next step."""
        decoding = self._decoding
        for seq in sequences:
            if seq not in decoding:
                decoding[seq] = None
                self._context += seq.num_tokens
                if self._end_us is not None:
                    self._idle.add(seq)

    def release(self, sequences: list[Sequence]) -> None:
        """Hold the sequences, which have just produced, no longer."""
        for seq in sequences:
            self.forget(seq)
            seq.due_us = self._ended_us

    def plan(self, step: Step, now_us: int) -> None:
        """Begin the next step if none runs and there is work for it."""
        if self._end_us is None:
            self._begin(step, now_us)
        step.wake_us = self._next_us if self._end_us is None else self._end_us

    def load(self, load: Load, now_us: int) -> int:
        """Between two steps, of which the later one takes so much longer, as in vLLM."""
        self._loaded_us = max(now_us, self._loaded_us, self._end_us or 0) + self._adapters.load_us([load])
        return self._loaded_us

    def wake_us(self) -> int | None:
        """The end of the step that runs."""
        return self._end_us

    def forget(self, seq: Sequence) -> None:
        """Take a sequence out of the step, and its context out of the sum."""
        if seq in self._decoding:
            del self._decoding[seq]
            self._context -= seq.num_tokens
            self._idle.discard(seq)

    def _begin(self, step: Step, now_us: int) -> None:
        self._next_us = None
        begin_us = self._ended_us if self._follows else now_us
        if self._follows or self._resumed or self._has_work:
            self._arrive(self._began_us if self._follows and self._lag else begin_us)
        if not self._has_work:
            if not self._arriving:
                return
            # An idle engine begins a step as soon as there is a sequence, however late it is told.
            begin_us = max(min(self._arriving.values()), self._ended_us)
            if begin_us > now_us:
                self._next_us = begin_us
                return
            self._arrive(begin_us)
        scheduler, decoding = self._scheduler, self._decoding
        self._idle = set(islice(decoding, scheduler.budget, None)) if len(decoding) > scheduler.budget else set()
        _, complete, admitted = self._compute(scheduler.budget - len(decoding), step, begin_us)
        work = self._features()
        if not work.sequences:
            self._next_us = now_us if step.preempted else None
            return
        for seq in (*complete, *admitted):
            if seq not in scheduler.prefilling:
                decoding[seq] = None
                self._context += seq.num_tokens
        self._began_us, self._resumed = begin_us, False
        # Everybody in a step waits for the adapters that have to be loaded for it.
        loading_us = max(0, self._loaded_us - begin_us) + self._adapters.load_us(scheduler.adapters.settle())
        self._end_us = begin_us + loading_us + round(self._noise.apply(self._timer.step_us(work)))

    @property
    def _has_work(self) -> bool:
        return bool(self._decoding or self._scheduler.prefilling or self._scheduler.waiting)

    def _arrive(self, by_us: int) -> None:
        """Queue the sequences that have passed the API by then, in the order in which they did."""
        arrived = [seq for seq, at_us in self._arriving.items() if at_us <= by_us]
        for seq in sorted(arrived, key=self._arriving.__getitem__):
            del self._arriving[seq]
            self._scheduler.add(seq, seq.queued_us)

    def _features(self) -> StepFeatures:
        tokens, work = 0, 0.0
        chunks = self._scheduler.chunks
        for before, size in chunks.values():
            tokens += size
            work += size * (before + size / 2)
        decoding, idle = self._decoding, self._idle
        context = sum(seq.num_tokens for seq in decoding if seq not in idle) if idle else self._context
        share = self._adapters.step_share(self._scheduler.adapters)
        return StepFeatures(tokens, work, len(chunks), len(decoding) - len(idle), context, share)
