"""What only a simulated server has to tell; all of it begins with `ghostfleet_`."""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.config import FailureType
from ghostfleet_simulator.metrics.families import AnySeries, Family, Kind, Time, histograms, scalars

BUILD_INFO = Family(
    "ghostfleet_build_info", Kind.GAUGE, "Version of the simulator.", "Always 1.", ("version",), created=False
)
PROFILE_INFO = Family(
    "ghostfleet_profile_info",
    Kind.GAUGE,
    "Revision and hash of the configuration in force.",
    "Always 1; the one series is replaced when a document or a patch comes into force.",
    ("revision", "hash"),
    created=False,
)
FAULTS = Family(
    "ghostfleet_faults",
    Kind.COUNTER,
    "Failures that were injected.",
    "When a failure befalls a request, a readiness probe (`Unready`) or the process. `type` is written as in the "
    "configuration.",
    ("type",),
)
WAKE_LATENESS = Family(
    "ghostfleet_wake_lateness_seconds",
    Kind.HISTOGRAM,
    "How long after they were due tokens came out.",
    "With every wake-up that gave tokens. High values mean that the machine is too slow for what it simulates.",
    (),
    (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
    per_unit=1_000_000,
)

FAMILIES: Final = (BUILD_INFO, PROFILE_INFO, FAULTS, WAKE_LATENESS)
"""All families of this module, in the order of the exposition."""


class OwnMetrics:
    """The `ghostfleet_` series of one server."""

    def __init__(self, version: str, now: Time) -> None:
        build = scalars(BUILD_INFO, now)
        build.cell(version).value = 1
        self._profile = scalars(PROFILE_INFO, now)
        faults = scalars(FAULTS, now)
        lateness = histograms(WAKE_LATENESS, now)
        self.faults = {kind: faults.cell(kind.value) for kind in FailureType}
        """Counters of injected failures by type."""
        self.lateness = lateness.cell()
        """In whole microseconds."""
        self._now = now
        self.profile_since = now()
        """When what is in force came into force, Unix time."""
        self.series: list[AnySeries] = [build, self._profile, faults, lateness]

    def set_profile(self, revision: int, live_hash: str) -> None:
        """Tell what is in force."""
        self.profile_since = self._now()
        self._profile.clear()
        self._profile.cell(str(revision), live_hash).value = 1
