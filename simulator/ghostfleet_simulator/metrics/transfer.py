"""What vLLM 0.33 measures of KV cache between servers: kv_connector/v1/nixl/stats.py, mooncake/stats.py, loggers.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ghostfleet_simulator.config import KVConnector, ServerConfig
from ghostfleet_simulator.engine.transfer import Stage, Transfers
from ghostfleet_simulator.metrics.families import AnySeries, Family, Histogram, Kind, Scalar, Time, histograms, scalars
from ghostfleet_simulator.versions import Conduct

_ENGINE: Final = ("model_name", "engine")
_TIMES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0)
_SIZES: Final = tuple(float(2 ** (10 + i)) for i in range(1, 25, 2))
_DESCRIPTORS: Final = (10, 20, 30, 50, 75, 100, 200, 400, 1000, 2000, 4000, 10000, 20000, 50000)
_PULLED: Final = "when what another server sent is there."

FETCHES: Final = Family(
    "vllm:num_requests_kv_fetch_by_stage",
    Kind.GAUGE,
    "Number of waiting requests by async KV load stage. Stage labels: 'waiting_to_start' = needs an async KV load that "
    "has not started; 'in_progress' = load started and not yet reported finished; 'completed_waiting' = load finished, "
    "request not running yet.",
    "With `kvTransfer` and a role that consumes: with every step of the engine.",
    (*_ENGINE, "stage"),
)


def _histogram(name: str, text: str, moves: str, bounds: tuple[float, ...], per_unit: int = 1) -> Family:
    return Family(f"vllm:{name}", Kind.HISTOGRAM, text, moves, _ENGINE, bounds, per_unit)


def _counter(name: str, text: str, moves: str) -> Family:
    return Family(f"vllm:{name}", Kind.COUNTER, text, moves, _ENGINE)


_NIXL: Final = f"With NIXL: {_PULLED}"
NIXL_TIME = _histogram(
    "nixl_xfer_time_seconds",
    "Histogram of transfer duration for NIXL KV Cache transfers.",
    _NIXL,
    _TIMES,
    1_000_000,
)
NIXL_POST_TIME = _histogram(
    "nixl_post_time_seconds",
    "Histogram of transfer post time for NIXL KV Cache transfers.",
    f"{_NIXL} It is always 0.",
    (0.001, *_TIMES),
    1_000_000,
)
NIXL_BYTES = _histogram(
    "nixl_bytes_transferred", "Histogram of bytes transferred per NIXL KV Cache transfers.", _NIXL, _SIZES
)
NIXL_DESCRIPTORS = _histogram(
    "nixl_num_descriptors",
    "Histogram of number of descriptors per NIXL  KV Cache transfers.",
    f"{_NIXL} One per block (vLLM: per block and layer).",
    _DESCRIPTORS,
)
NIXL_FAILED = _counter(
    "nixl_num_failed_transfers",
    "Number of failed NIXL KV Cache transfers, including handshake and notification failures. NOTE: KV expiry is "
    "tracked separately in vllm:nixl_num_kv_expired_reqs.",
    "With NIXL: when another server cannot be reached or has not what it should.",
)
NIXL_UNNOTIFIED = _counter(
    "nixl_num_failed_notifications",
    "Number of failed NIXL KV Cache notifications. Retained for compatibility; these failures are also included in "
    "vllm:nixl_num_failed_transfers.",
    "With NIXL: when another server cannot be told that its blocks are not needed.",
)
NIXL_EXPIRED = _counter(
    "nixl_num_kv_expired_reqs",
    "Number of requests that had their KV expire. NOTE: This metric is tracked on the P instance.",
    "With NIXL: when the lease of blocks that nobody fetched is over.",
)
NIXL_LATE = _counter(
    "nixl_num_notifications_after_expiry",
    "Number of completion notifications for requests that were no longer tracked, usually because their KV lease "
    "expired. The KV blocks may have been reused before the transfer finished. Counted per notification (one per "
    "remote rank), not per request.",
    "With NIXL: when another server has fetched blocks whose lease was over by then.",
)
_MOONCAKE: Final = f"With Mooncake: {_PULLED}"
MOONCAKE_TIME = _histogram(
    "mooncake_xfer_time_seconds",
    "Histogram of transfer duration for Mooncake KV Cache transfers.",
    _MOONCAKE,
    _TIMES,
    1_000_000,
)
MOONCAKE_BYTES = _histogram(
    "mooncake_bytes_transferred",
    "Histogram of bytes transferred per Mooncake KV Cache transfer.",
    _MOONCAKE,
    _SIZES,
)
MOONCAKE_DESCRIPTORS = _histogram(
    "mooncake_num_descriptors",
    "Histogram of number of descriptors per Mooncake KV Cache transfer.",
    f"{_MOONCAKE} One per block.",
    _DESCRIPTORS,
)
MOONCAKE_FAILED = _counter(
    "mooncake_num_failed_transfers", "Number of failed Mooncake KV Cache transfers.", "Stays 0: failures are receives."
)
MOONCAKE_FAILED_RECEIVES = _counter(
    "mooncake_num_failed_recvs",
    "Number of failed Mooncake KV Cache receives.",
    "With Mooncake: when another server cannot be reached or has not what it should.",
)
MOONCAKE_EXPIRED = _counter(
    "mooncake_num_kv_expired_reqs",
    "Number of requests that had their KV expire. NOTE: This metric is tracked on the P instance.",
    "With Mooncake: when blocks that nobody fetched are not held any more.",
)


_NIXL_FAMILIES: Final = {
    "time": NIXL_TIME,
    "post_time": NIXL_POST_TIME,
    "bytes": NIXL_BYTES,
    "descriptors": NIXL_DESCRIPTORS,
    "failed": NIXL_FAILED,
    "unnotified": NIXL_UNNOTIFIED,
    "expired": NIXL_EXPIRED,
    "late": NIXL_LATE,
}
_MOONCAKE_FAMILIES: Final = {
    "time": MOONCAKE_TIME,
    "bytes": MOONCAKE_BYTES,
    "descriptors": MOONCAKE_DESCRIPTORS,
    "sends_failed": MOONCAKE_FAILED,
    "failed": MOONCAKE_FAILED_RECEIVES,
    "expired": MOONCAKE_EXPIRED,
}


def _families(connector: KVConnector | None, conduct: Conduct) -> Mapping[str, Family]:
    """What a release counts of a connector's transfers."""
    if connector is KVConnector.NIXL:
        hidden = {
            *(() if conduct.counts_kv_expired else ("expired",)),
            *(() if conduct.counts_kv_fetches else ("late",)),
        }
        return {name: family for name, family in _NIXL_FAMILIES.items() if name not in hidden}
    if connector is KVConnector.MOONCAKE and conduct.counts_kv_fetches:
        return _MOONCAKE_FAMILIES
    return {}


class TransferSeries:
    """The series of a server; of a connector whose transfers vLLM does not count, only the stages."""

    def __init__(self, config: ServerConfig, now: Time) -> None:
        settings, conduct = config.kv_transfer, config.engine.conduct
        self.p2p = settings.kv_connector is KVConnector.OFFLOADING
        """Whether vLLM tells apart what came from another server."""
        self.stages = scalars(FETCHES, now) if settings.consumes and conduct.counts_kv_fetches else None
        families = _families(settings.kv_connector, conduct)
        self._histograms = {
            name: histograms(family, now) for name, family in families.items() if family.kind is Kind.HISTOGRAM
        }
        self._counters = {
            name: scalars(family, now) for name, family in families.items() if family.kind is Kind.COUNTER
        }

    @property
    def all(self) -> list[AnySeries]:
        """In the order of the exposition."""
        stages = [] if self.stages is None else [self.stages]
        return [*stages, *self._histograms.values(), *self._counters.values()]

    def histogram(self, name: str, labels: tuple[str, str]) -> Histogram:
        """The cell of an engine; one that nobody sees where there is no such series."""
        series = self._histograms.get(name)
        return Histogram(()) if series is None else series.cell(*labels)

    def counter(self, name: str, labels: tuple[str, str]) -> Scalar:
        """The cell of an engine; one that nobody sees where there is no such series."""
        series = self._counters.get(name)
        return Scalar() if series is None else series.cell(*labels)


class TransferMetrics:
    """What one engine reports."""

    def __init__(self, series: TransferSeries, labels: tuple[str, str]) -> None:
        self.p2p = series.p2p
        self._transfers: Transfers | None = None
        self._stages = {} if series.stages is None else {stage: series.stages.cell(*labels, stage) for stage in Stage}
        self._time, self._post_time = series.histogram("time", labels), series.histogram("post_time", labels)
        self._bytes, self._descriptors = series.histogram("bytes", labels), series.histogram("descriptors", labels)
        self._failed, self._unnotified = series.counter("failed", labels), series.counter("unnotified", labels)
        self._expired, self._late = series.counter("expired", labels), series.counter("late", labels)
        series.counter("sends_failed", labels)

    def watch(self, transfers: Transfers | None) -> None:
        """Say whose stages are shown."""
        self._transfers = transfers

    def on_step(self) -> None:
        """A step was made."""
        if self._stages and self._transfers is not None:
            for stage, count in self._transfers.stages.items():
                self._stages[stage].value = count

    def on_received(self, size: int, blocks: int, duration_us: int) -> None:
        """What another server sent is there."""
        self._time.observe(duration_us)
        self._post_time.observe(0)
        self._bytes.observe(size)
        self._descriptors.observe(blocks)

    def on_failed(self) -> None:
        """What another server was to send does not come."""
        self._failed.value += 1

    def on_unnotified(self) -> None:
        """Another server could not be told that its blocks are not needed."""
        self._unnotified.value += 1
        self._failed.value += 1

    def on_expired(self) -> None:
        """Blocks that nobody fetched are not held any more."""
        self._expired.value += 1

    def on_late_notification(self) -> None:
        """Another server has fetched blocks that were not held any more."""
        self._late.value += 1
