"""Writes to many sockets by one system call: Linux's native asynchronous I/O, io_submit(2).

For sockets that do not block it is not asynchronous at all: every write is done, or refused, before the call returns.
What it saves is not so much the calls as what happens between them. A write wakes the reader of its socket, who takes
the processor from the writer if the two share it, at every write anew; within one call it cannot.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Final, NamedTuple

MOST: Final = 256
"""Writes of one call. /proc/sys/fs/aio-max-nr, 65,536 by default, bounds the sum over all processes of a machine."""


class _Calls(NamedTuple):
    """Numbers of the system calls, for which the C library has no names."""

    setup: int
    submit: int
    getevents: int


_CALLS: Final = {"x86_64": _Calls(206, 209, 208), "aarch64": _Calls(0, 2, 4)}

# struct iocb and struct io_event of linux/aio_abi.h in words of 64 bits, lowest byte first.
_REQUEST_WORDS: Final = 8
_DATA, _OPERATION, _ADDRESS, _SIZE = 0, 2, 3, 4
_PWRITE: Final = 1
"""IOCB_CMD_PWRITE; the descriptor is the upper half of the same word."""
_EVENT_WORDS: Final = 4
_OF, _RESULT = 0, 2


class Submission:
    """Writes to as many descriptors as one likes, at most `MOST` by one call. Of one thread."""

    def __init__(self, calls: _Calls) -> None:
        """OSError where the kernel, or who guards it, does not have that, or has no room for one more."""
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.argtypes, self._syscall.restype = [ctypes.c_long] * 6, ctypes.c_long
        context = ctypes.c_long()
        if self._syscall(calls.setup, MOST, ctypes.addressof(context), 0, 0, 0):
            raise OSError(ctypes.get_errno(), "io_setup")
        self._calls, self._context = calls, context.value
        self._requests = array("q", bytes(8 * _REQUEST_WORDS * MOST))
        self._requests[_DATA::_REQUEST_WORDS] = array("q", range(MOST))
        first, _ = self._requests.buffer_info()
        self._pointers = array("q", range(first, first + 8 * _REQUEST_WORDS * MOST, 8 * _REQUEST_WORDS))
        self._events = array("q", bytes(8 * _EVENT_WORDS * MOST))

    def write(self, descriptors: Sequence[int], data: Sequence[bytes]) -> list[tuple[int, int]]:
        """Write each of `data` to the descriptor in its place; no descriptor may be there twice.

        Returns which of them were not written whole, by their index, and how many bytes of each were.
        """
        short: list[tuple[int, int]] = []
        for begin in range(0, len(data), MOST):
            end = begin + MOST
            short += [(begin + index, n) for index, n in self._write(descriptors[begin:end], data[begin:end])]
        return short

    def _write(self, descriptors: Sequence[int], data: Sequence[bytes]) -> list[tuple[int, int]]:
        count, joined, sizes = len(data), b"".join(data), array("q", map(len, data))
        address = ctypes.cast(ctypes.c_char_p(joined), ctypes.c_void_p).value or 0
        requests, last = self._requests, _REQUEST_WORDS * count
        requests[_OPERATION:last:_REQUEST_WORDS] = array("q", [_PWRITE | fd << 32 for fd in descriptors])
        requests[_ADDRESS:last:_REQUEST_WORDS] = array("q", accumulate(sizes[:-1], initial=address))
        requests[_SIZE:last:_REQUEST_WORDS] = sizes
        done = self._call(count)
        events = self._events[: _EVENT_WORDS * done]
        results = events[_RESULT::_EVENT_WORDS]
        if results == sizes:
            return []
        written = [0] * count
        for index, result in zip(events[_OF::_EVENT_WORDS], results, strict=True):
            written[index] = max(0, result)
        return [(index, n) for index, (n, size) in enumerate(zip(written, sizes, strict=True)) if n < size]

    def _call(self, count: int) -> int:
        """Have the first `count` requests done; of how many there is a result, in `_events`."""
        syscall, calls, context = self._syscall, self._calls, self._context
        pointers, _ = self._pointers.buffer_info()
        done = index = 0
        while index < count:
            taken = syscall(calls.submit, context, count - index, pointers + 8 * index, 0, 0)
            if taken > 0:
                done += taken
                index += taken
            else:
                index += 1  # a descriptor that is none
        events, _ = self._events.buffer_info()
        if done and syscall(calls.getevents, context, done, done, events, 0) != done:
            raise OSError(ctypes.get_errno(), "io_getevents")
        return done


@cache
def submission() -> Submission | None:
    """That of this process; None where there is no such thing."""
    calls = _CALLS.get(platform.machine()) if sys.platform == "linux" and sys.maxsize > 2**32 else None
    if calls is None:
        return None
    try:
        return Submission(calls)
    except OSError:
        return None
