"""Decides for one batch of KV events after the other whether something happens to it on its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from ghostfleet_simulator.config import EVENT_FAILURES, Failure, Failures, FailureType


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happens to a batch: how often it is sent, and how many seconds of the server's clock later."""

    copies: int = 1
    delay: float = 0

    NONE: ClassVar[Disturbance]


Disturbance.NONE = Disturbance()


class EventFaults:
    """The failures of one server that befall its KV events, and their seeded draws.

    Each of them draws on its own, so that one batch can be late and doubled.
    """

    def __init__(self, seed: int, count: Callable[[FailureType], None]) -> None:
        """`count` is told of everything that happens to a batch."""
        self._rng = Random(f"{seed}/faults/kv events")
        self._count = count
        self._failures: tuple[Failure, ...] = ()
        self.armed = False
        """Whether anything can happen."""

    def use(self, failures: Failures) -> None:
        """Take over what is in force."""
        self._failures = tuple(failure for failure in failures if failure.type in EVENT_FAILURES)
        self.armed = bool(self._failures)

    def decide(self) -> Disturbance:
        """What happens to the next batch."""
        copies, delay = 1, 0.0
        for failure in self._failures:
            if self._rng.random() >= float(failure.probability):
                continue
            self._count(failure.type)
            if failure.type is FailureType.KV_EVENT_LOSS:
                copies = 0
            elif failure.type is FailureType.KV_EVENT_DUPLICATE:
                copies *= 2
            else:
                assert failure.duration is not None  # noqa: S101 - the settings require it
                delay += failure.duration.seconds
        return Disturbance(copies, delay)
