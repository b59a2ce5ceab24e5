"""Decides for one transfer of KV cache after the other whether it fails, or comes late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ghostfleet_simulator.config import TRANSFER_FAILURES, Failure, Failures, FailureType


@dataclass(frozen=True, slots=True)
class Trouble:
    """What befalls a transfer: the seconds of the server's clock by which it begins late, and whether it then fails."""

    delay: float = 0
    fails: bool = False


class TransferFaults:
    """The failures of one server that befall what it fetches from others, and their seeded draws, each on its own."""

    def __init__(self, seed: int, count: Callable[[FailureType], None]) -> None:
        """`count` is told of everything that happens to a transfer."""
        self._rng = Random(f"{seed}/faults/transfers")
        self._count = count
        self._failures: tuple[Failure, ...] = ()

    def use(self, failures: Failures) -> None:
        """Take over what is in force."""
        self._failures = tuple(failure for failure in failures if failure.type in TRANSFER_FAILURES)

    def decide(self) -> Trouble:
        """What befalls the next transfer."""
        delay, fails = 0.0, False
        for failure in self._failures:
            if self._rng.random() >= float(failure.probability):
                continue
            self._count(failure.type)
            if failure.duration is None:
                fails = True
            else:
                delay += failure.duration.seconds
        return Trouble(delay, fails)
