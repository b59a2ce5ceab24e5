"""Failures that befall the process and not one request: memory that grows, a crash after a time."""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn

from ghostfleet_simulator.config import Failure, Failures, FailureType

_log = logging.getLogger("ghostfleet.faults")

_STEP_S: Final = 0.1
_MOST_PER_STEP: Final = 4 * 2**20
"""Bytes taken at a time: about 1 ms in which no token goes out."""


def end_process(code: int) -> NoReturn:
    """End the process at once, as a crash does: no answer is finished, nothing is tidied up."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


class _Growth:
    """Memory that is taken step by step and used, so that it is resident."""

    def __init__(self, failure: Failure, loop: asyncio.AbstractEventLoop, compression: float) -> None:
        assert failure.growth is not None  # noqa: S101 - for the type checker; the settings demand both
        assert failure.limit is not None  # noqa: S101 - likewise
        self._rate, self._limit = failure.growth.bytes * compression, failure.limit.bytes
        self._loop = loop
        self._began = time.monotonic()
        self._taken = 0
        self._regions: list[mmap.mmap] = []
        self._timer = loop.call_soon(self._grow)

    def _grow(self) -> None:
        due = min(self._limit, int((time.monotonic() - self._began) * self._rate))
        size = min(due - self._taken, _MOST_PER_STEP)
        # Whole pages, but for the last: less would take a page each all the same.
        if size >= mmap.PAGESIZE or (size > 0 and due == self._limit):
            try:
                region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except (OSError, ValueError) as error:
                _log.warning("memory does not grow beyond %d bytes: %s", self._taken, error)
                return
            pages = len(range(0, size, mmap.PAGESIZE))
            region[:: mmap.PAGESIZE] = b"\1" * pages
            self._regions.append(region)
            self._taken += size
        if self._taken < self._limit:
            pause = min(_STEP_S, max(0.005, _MOST_PER_STEP / self._rate))
            self._timer = self._loop.call_later(pause, self._grow)

    def end(self) -> None:
        """Give the memory back."""
        self._timer.cancel()
        for region in self._regions:
            region.close()
        self._regions.clear()


class ProcessFaults:
    """What goes wrong with the process of one server; each failure counts from when it came into force."""

    def __init__(
        self, began: Callable[[FailureType], None], crash: Callable[[Failure], None], compression: float = 1.0
    ) -> None:
        """`began` is told of every failure that begins, `crash` performs a crash.

        Time passes `compression` times as fast as it does.
        """
        self._began = began
        self._perform_crash = crash
        self._compression = compression
        self._failures: tuple[Failure, ...] = ()
        self._ends: dict[Failure, Callable[[], None]] = {}
        self._started = False

    def use(self, failures: Failures) -> None:
        """Take over what is in force; a failure that stays as it is goes on."""
        self._failures = tuple(failure for failure in failures if _is_ours(failure))
        if self._started:
            self._follow()

    def start(self) -> None:
        """Let failures happen from now on; they need a running event loop."""
        self._started = True
        self._follow()

    def close(self) -> None:
        """End all of them."""
        self._started, self._failures = False, ()
        for end in self._ends.values():
            end()
        self._ends.clear()

    def _follow(self) -> None:
        for failure in self._ends.keys() - set(self._failures):
            self._ends.pop(failure)()
        for failure in self._failures:
            if failure in self._ends:
                continue
            loop = asyncio.get_running_loop()
            if failure.type is FailureType.MEMORY_GROWTH:
                self._began(failure.type)
                self._ends[failure] = _Growth(failure, loop, self._compression).end
            elif failure.after is not None:
                seconds = failure.after.seconds / self._compression
                self._ends[failure] = loop.call_later(seconds, self._crash, failure).cancel

    def _crash(self, failure: Failure) -> None:
        self._began(failure.type)
        self._perform_crash(failure)


def _is_ours(failure: Failure) -> bool:
    return failure.type is FailureType.MEMORY_GROWTH or failure.after is not None
