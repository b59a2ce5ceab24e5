"""What vLLM 0.33 measures of KV-cache offloading (kv_connector/v1/offloading/metrics.py), with `kvCache.tiers`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ghostfleet_simulator.engine.tiers import Transfer
from ghostfleet_simulator.metrics.families import AnySeries, Family, Kind, Time, histograms, scalars

_ENGINE: Final = ("model_name", "engine")
_SIZES: Final = (1e6, 5e6, 10e6, 20e6, 40e6, 60e6, 80e6, 100e6, 150e6, 200e6)
_LOADED: Final = "With `kvCache.tiers`: when blocks have come to the GPU."
_STORED: Final = "With `kvCache.tiers`: when blocks have been offloaded from the GPU."


def _counter(name: str, text: str, moves: str) -> Family:
    return Family(f"vllm:kv_offload_{name}", Kind.COUNTER, text, moves, _ENGINE)


def _sizes(name: str, text: str, moves: str) -> Family:
    return Family(f"vllm:kv_offload_{name}", Kind.HISTOGRAM, text, moves, _ENGINE, _SIZES)


LOAD_BYTES = _counter("load_bytes", "Total bytes loaded from offload storage to GPU.", _LOADED)
LOAD_TIME = _counter("load_time", "Total load time from offload storage to GPU, in seconds.", _LOADED)
LOAD_SIZE = _sizes("load_size", "Histogram of KV offload load operation size, in bytes.", _LOADED)
STORE_BYTES = _counter("store_bytes", "Total bytes stored from GPU to offload storage.", _STORED)
STORE_TIME = _counter("store_time", "Total store time from GPU to offload storage, in seconds.", _STORED)
STORE_SIZE = _sizes("store_size", "Histogram of KV offload store operation size, in bytes.", _STORED)
ALLOCATION_FAILURE = _counter(
    "allocation_failure",
    "Number of KV offload store allocation attempts that failed.",
    "With `kvCache.tiers`: when host memory has no room for what was to be offloaded.",
)


class OffloadSeries:
    """The series of a server."""

    def __init__(self, now: Time) -> None:
        self.loads = scalars(LOAD_BYTES, now), scalars(LOAD_TIME, now), histograms(LOAD_SIZE, now)
        self.stores = scalars(STORE_BYTES, now), scalars(STORE_TIME, now), histograms(STORE_SIZE, now)
        self.failures = scalars(ALLOCATION_FAILURE, now)

    @property
    def all(self) -> list[AnySeries]:
        """In the order of the exposition."""
        return [*self.loads, *self.stores, self.failures]


class OffloadMetrics:
    """What one engine reports."""

    def __init__(self, series: OffloadSeries, labels: tuple[str, str]) -> None:
        loads, stores = series.loads, series.stores
        self._loads = loads[0].cell(*labels), loads[1].cell(*labels), loads[2].cell(*labels)
        self._stores = stores[0].cell(*labels), stores[1].cell(*labels), stores[2].cell(*labels)
        self._failures = series.failures.cell(*labels)

    def on_step(self, transfers: Iterable[Transfer], failures: int) -> None:
        """Transfers that ended with a step, and offers that host memory had no room for."""
        for transfer in transfers:
            size, time, sizes = self._loads if transfer.loads else self._stores
            size.value += transfer.bytes
            time.value += transfer.seconds
            sizes.observe(transfer.bytes)
        self._failures.value += failures
