"""Pacing: when the tokens of running sequences come out. Who runs is for the scheduler to say, whatever the pacer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from ghostfleet_simulator.config import Profile
from ghostfleet_simulator.engine.adapters import Load
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step


class Pacer(ABC):
    """Holds the decoding sequences of a scheduler and says when each has its next token.

    In every pass the engine takes the sequences that are `due`, lets them produce, gives those that go on to `join`,
    and has the pacer `plan` what comes next. A pacer that is not in use any more only lets out what it holds.
    """

    def __init__(self, scheduler: Scheduler, preempted: Callable[[Sequence], None]) -> None:
        """`preempted` is told of every sequence that a pass over the prompts takes the blocks from."""
        self._scheduler = scheduler
        self._preempted = preempted

    @property
    def stepped(self) -> bool:
        """Whether a step ended with the last call of `due`, though it may have given no token."""
        return False

    @property
    def ahead(self) -> bool:
        """Whether what a step computes is planned before the one before it has ended (asynchronous scheduling)."""
        return True

    @abstractmethod
    def use(self, profile: Profile) -> None:
        """Take over the numbers of a profile; what is already due keeps its time."""

    @abstractmethod
    def start(self, now_us: int) -> None:
        """Become the pacer in use in the place of another one."""

    @abstractmethod
    def resume(self, frozen_us: int) -> None:
        """Go on after a pause; for its last `frozen_us` nothing moved at all, so all that was due is due later."""

    @abstractmethod
    def leave(self, now_us: int) -> list[Sequence]:
        """Make room for another pacer: what is due stays here until then; the rest that decodes is given back."""

    @abstractmethod
    def release(self, sequences: list[Sequence]) -> None:
        """Sequences that were due here have produced their token and go on in another pacer; sets their `due_us`."""

    def add(self, seq: Sequence, now_us: int) -> None:
        """Queue a sequence."""
        self._scheduler.add(seq, now_us)

    @property
    def arriving(self) -> Collection[Sequence]:
        """Sequences that were added and are not in the scheduler's queue yet."""
        return ()

    def withdraw(self, seq: Sequence) -> bool:  # noqa: ARG002 - where nothing is arriving there is nothing to withdraw
        """Take back a sequence if it is `arriving`; whether it was."""
        return False

    @abstractmethod
    def due(self, now_us: int) -> list[Sequence]:
        """Take out the sequences whose token is due; every one of them produces it."""

    @abstractmethod
    def join(self, sequences: list[Sequence]) -> None:
        """Take over decoding sequences that have just produced a token; `due_us` says when that was due."""

    @abstractmethod
    def plan(self, step: Step, now_us: int) -> None:
        """Continue prompts, admit, and set the due times of all that wait for one."""

    @abstractmethod
    def load(self, load: Load, now_us: int) -> int:
        """An adapter is loaded at somebody's wish and not for a sequence; when that is done."""

    def transfer_us(self, seq: Sequence) -> int | None:  # noqa: ARG002 - one that asks the link does not look at it
        """How long the KV cache of a sequence takes from another server, where the profile says so."""
        return None

    @abstractmethod
    def wake_us(self) -> int | None:
        """When something is due next; None: nothing is."""

    @abstractmethod
    def forget(self, seq: Sequence) -> None:
        """A sequence ended or was preempted: it is not due any more."""

    def _compute(self, budget: int, step: Step, at_us: int) -> tuple[int, list[Sequence], list[Sequence]]:
        """One pass over the prompts within `budget` tokens: continue those begun, then admit.

        Returns the budget left, the sequences begun before whose prompt is now complete, and the admitted; the
        scheduler's `chunks` are those of this pass.
        """
        scheduler = self._scheduler
        scheduler.chunks.clear()
        complete: list[Sequence] = []
        admitted: list[Sequence] = []
        if scheduler.prefilling and budget > 0:
            preempted: list[Sequence] = []
            budget, complete = scheduler.prefill(budget, preempted)
            step.preempted += len(preempted)
            for seq in preempted:
                self._preempted(seq)
        if scheduler.waiting and not step.preempted:
            budget, admitted = scheduler.admit(budget, at_us)
        return budget, complete, admitted
