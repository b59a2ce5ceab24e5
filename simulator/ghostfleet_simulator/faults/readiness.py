"""When a server that is to flap is not ready."""

from __future__ import annotations

from ghostfleet_simulator.config import Failure, Failures, FailureType


class Flapping:
    """The `Unready` failures of one server; each counts its periods from the moment it came into force."""

    def __init__(self) -> None:
        self._since: dict[Failure, float] = {}

    def use(self, failures: Failures, now: float) -> None:
        """Take over what is in force at `now`, in seconds; a failure that stays as it is keeps its time."""
        wanted = [failure for failure in failures if failure.type is FailureType.UNREADY]
        self._since = {failure: self._since.get(failure, now) for failure in wanted}

    @property
    def goes_by_time(self) -> bool:
        """Whether readiness comes and goes by itself."""
        return any(failure.period is not None for failure in self._since)

    def unready(self, now: float) -> bool:
        """Whether the server is not ready at `now`."""
        return any(_away(failure, now - since) for failure, since in self._since.items())


def _away(failure: Failure, seconds: float) -> bool:
    if failure.period is None:
        return True
    period = failure.period.seconds
    return seconds % period >= period * (1 - (0.5 if failure.duty is None else float(failure.duty)))
