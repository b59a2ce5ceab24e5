"""What only a simulated server has to tell; all of it begins with `ghostfleet_`."""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.config import FailureType
from ghostfleet_simulator.metrics.families import AnySeries, Family, Kind, Time, histograms, scalars, summaries

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
    "When a failure befalls a request, a readiness probe (`Unready`), a batch of KV events or the process. `type` is "
    "written as in the configuration.",
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
KV_EVENT_BATCHES = Family(
    "ghostfleet_kv_event_batches",
    Kind.COUNTER,
    "Batches of KV events that were published.",
    "Only with `kvEvents`; with every batch that ZeroMQ is given, doubled ones twice.",
)
KV_EVENT_OVERFLOWS = Family(
    "ghostfleet_kv_event_overflows",
    Kind.COUNTER,
    "Times that a queue of KV events was full.",
    "Only with `kvEvents`. `publisher`: `maxQueueSize` batches were held up, and one more is lost to everybody. "
    "`subscriber`: `hwm` batches wait for one subscriber, which misses all until it has read half of them. Both leave "
    "a gap in the sequence numbers.",
    ("queue",),
)
KV_EVENT_SECONDS = Family(
    "ghostfleet_kv_event_publish_seconds",
    Kind.SUMMARY,
    "Time that batches of KV events take to be encoded and handed over to ZeroMQ.",
    "Only with `kvEvents`; with every batch.",
)

FAMILIES: Final = (
    BUILD_INFO,
    PROFILE_INFO,
    FAULTS,
    WAKE_LATENESS,
    KV_EVENT_BATCHES,
    KV_EVENT_OVERFLOWS,
    KV_EVENT_SECONDS,
)
"""All families of this module, in the order of the exposition."""


class KVEventMetrics:
    """What became of the batches of KV events."""

    def __init__(self, now: Time) -> None:
        batches, overflows, seconds = (
            scalars(KV_EVENT_BATCHES, now),
            scalars(KV_EVENT_OVERFLOWS, now),
            summaries(KV_EVENT_SECONDS, now),
        )
        self.published = batches.cell()
        self.publisher_overflows = overflows.cell("publisher")
        self.subscriber_overflows = overflows.cell("subscriber")
        self.seconds = seconds.cell()
        self.series: list[AnySeries] = [batches, overflows, seconds]


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
