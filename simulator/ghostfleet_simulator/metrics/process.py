"""Metrics of the Python process, as prometheus_client's default collectors make them, read straight from /proc."""

from __future__ import annotations

import gc
import os
import platform
import resource
from pathlib import Path
from typing import Final

from ghostfleet_simulator.metrics.families import AnySeries, Family, Kind, Scalar, Time, scalars

_READ: Final = "Read at each scrape."
_SLOWLY: Final = "Read at a scrape, at most once a second."
_OPEN_FDS_EVERY_S: Final = 1.0


def _family(name: str, kind: Kind, text: str, moves: str, *labels: str) -> Family:
    return Family(name, kind, text, moves, labels, created=False)


GC_COLLECTED = _family("python_gc_objects_collected", Kind.COUNTER, "Objects collected during gc", _READ, "generation")
GC_UNCOLLECTABLE = _family(
    "python_gc_objects_uncollectable", Kind.COUNTER, "Uncollectable objects found during GC", _READ, "generation"
)
GC_COLLECTIONS = _family(
    "python_gc_collections", Kind.COUNTER, "Number of times this generation was collected", _READ, "generation"
)
PYTHON_INFO = _family(
    "python_info",
    Kind.GAUGE,
    "Python platform information",
    "Always 1.",
    *("version", "implementation", "major", "minor", "patchlevel"),
)
VIRTUAL_MEMORY = _family("process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory size in bytes.", _READ)
RESIDENT_MEMORY = _family("process_resident_memory_bytes", Kind.GAUGE, "Resident memory size in bytes.", _READ)
START_TIME = _family(
    "process_start_time_seconds", Kind.GAUGE, "Start time of the process since unix epoch in seconds.", "Never."
)
CPU = _family("process_cpu_seconds", Kind.COUNTER, "Total user and system CPU time spent in seconds.", _READ)
OPEN_FDS = _family("process_open_fds", Kind.GAUGE, "Number of open file descriptors.", _SLOWLY)
MAX_FDS = _family("process_max_fds", Kind.GAUGE, "Maximum number of open file descriptors.", _SLOWLY)

_PROCESS: Final = (VIRTUAL_MEMORY, RESIDENT_MEMORY, START_TIME, CPU, OPEN_FDS, MAX_FDS)
FAMILIES: Final = (GC_COLLECTED, GC_UNCOLLECTABLE, GC_COLLECTIONS, PYTHON_INFO, *_PROCESS)
"""All families of this module, in the order of the exposition."""


class ProcessMetrics:
    """Series about the process; servers that share a process report the same. Without /proc `process_*` are absent."""

    def __init__(self, now: Time, proc: Path = Path("/proc")) -> None:
        self._now = now
        self._proc = proc
        self._page = resource.getpagesize()
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._fds_read_at = float("-inf")
        self._gc = [scalars(family, now) for family in (GC_COLLECTED, GC_UNCOLLECTABLE, GC_COLLECTIONS)]
        info = scalars(PYTHON_INFO, now)
        version = platform.python_version_tuple()
        info.cell(platform.python_version(), platform.python_implementation(), *version).value = 1
        self.series: list[AnySeries] = [*self._gc, info]
        try:
            boot = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
        except OSError:
            self._cells: dict[Family, Scalar] = {}
        else:
            process = [scalars(family, now) for family in _PROCESS]
            self.series += process
            self._cells = {series.family: series.cell() for series in process}
            self._cells[START_TIME].value = int(boot.split()[1]) + int(self._stat()[19]) / self._ticks

    def _stat(self) -> list[bytes]:
        # The name of the process, in parentheses, may hold spaces and parentheses itself.
        with (self._proc / "self/stat").open("rb") as file:
            return file.read().rpartition(b")")[2].split()

    def refresh(self) -> None:
        """Read what there is to read."""
        for generation, stats in enumerate(gc.get_stats()):
            for series, key in zip(self._gc, ("collected", "uncollectable", "collections"), strict=True):
                series.cell(str(generation)).value = stats[key]
        if not self._cells:
            return
        stat = self._stat()
        self._cells[CPU].value = (int(stat[11]) + int(stat[12])) / self._ticks
        self._cells[VIRTUAL_MEMORY].value = int(stat[20])
        self._cells[RESIDENT_MEMORY].value = int(stat[21]) * self._page
        now = self._now()
        if now - self._fds_read_at >= _OPEN_FDS_EVERY_S:
            # Listing them costs in proportion to their number, and a server has one for each stream.
            self._fds_read_at = now
            self._cells[OPEN_FDS].value = len(os.listdir(self._proc / "self/fd"))  # noqa: PTH208 - no Path per file
            self._cells[MAX_FDS].value = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
