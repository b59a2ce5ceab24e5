"""What a process that hosts servers sets up for all of them: signals, memory, the garbage collector."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
from collections.abc import Callable
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def return_large_blocks() -> None:
    """Have the C library give blocks from 1 MiB on back when they are freed, not keep them for the next large body."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_M_ARENA_MAX, 2)


def spare_collector() -> None:
    """Have the garbage collector leave alone what there is now, for it stays, and look less often at what comes.

    Each look through all of it would hold up the tokens that fall due by some 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def on_stop_signal(told: Callable[[], None]) -> None:
    """Call `told` at every SIGINT and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told)
