"""Injected failures that are under way with an answer, and what ends them before their time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ghostfleet_simulator.config import Failure, Failures
from ghostfleet_simulator.faults.forced import Asked


class Hold:
    """A failure that one answer suffers or is to suffer."""

    __slots__ = ("failure", "over", "timer")

    def __init__(self, failure: Failure, over: Callable[[], None]) -> None:
        self.failure = failure
        self.over = over
        self.timer: asyncio.TimerHandle | asyncio.Handle | None = None


class Held:
    """The failures of one server's answers.

    One is over after its duration, when it is no longer in force, and when the server stops. One that a request asked
    for itself is in no configuration and so is never out of force. Time passes `compression` times as fast as it does.
    """

    def __init__(self, compression: float = 1.0) -> None:
        self._compression = compression
        self._holds: set[Hold] = set()
        self._in_force: frozenset[Failure] = frozenset()
        self._stopped = False

    def use(self, failures: Failures) -> None:
        """Take over what is in force; what was in force and is not any more is over."""
        gone = self._in_force - frozenset(failures)
        self._in_force = frozenset(failures)
        for hold in [hold for hold in self._holds if hold.failure in gone]:
            self._end(hold)

    def add(self, failure: Failure, over: Callable[[], None]) -> Hold:
        """Enter a failure of an answer; `over` is called once when it is over, never within this call.

        One that is no longer in force, because it was switched off since it was decided, is over at once.
        """
        hold = Hold(failure, over)
        self._holds.add(hold)
        if self._stopped or not (failure in self._in_force or isinstance(failure, Asked)):
            hold.timer = asyncio.get_running_loop().call_soon(self._end, hold)
        return hold

    def begin(self, hold: Hold) -> None:
        """From now on the answer is held back, for the duration of the failure."""
        duration = hold.failure.duration
        if duration is not None and hold in self._holds and not self._stopped:
            hold.timer = asyncio.get_running_loop().call_later(duration.seconds / self._compression, self._end, hold)

    def drop(self, hold: Hold) -> None:
        """Forget a failure, because its answer has ended or its client is gone."""
        self._holds.discard(hold)
        if hold.timer is not None:
            hold.timer.cancel()

    def stop(self) -> None:
        """All is over, and so is whatever comes: the server stops."""
        self._stopped = True
        for hold in list(self._holds):
            self._end(hold)

    def _end(self, hold: Hold) -> None:
        if hold in self._holds:
            self.drop(hold)
            hold.over()
