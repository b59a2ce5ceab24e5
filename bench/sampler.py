"""Runs a console command of this environment under a sampling profiler: `python -m bench.sampler OUT COMMAND ...`.

The kernel sends SIGPROF whenever the main thread has used another millisecond of CPU time, and the handler notes the
Python stack; waiting is not seen, and time in a C call counts for the line that made it. The clock is a perf event,
which is exact. The timers of `setitimer` are not: those of CPU time go by the kernel's ticks, and a server that wakes
on a grid of milliseconds is in step with them and hardly ever seen; one of wall time also counts waiting for a core.

SIGUSR1 begins the sampling, a second one ends it and writes OUT, innermost frame first:
`{"stacks": [[count, [[function, file, line], ...]], ...]}`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import signal
import struct
import sys
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

PERIOD_NS: Final = 1_000_000
"""CPU time between two samples."""

SYSTEM_CALL: Final = {"x86_64": 298, "aarch64": 241}
"""Number of perf_event_open by machine."""

SOFTWARE, TASK_CLOCK, DISABLED, CLOSE_ON_EXEC = 1, 1, 1, 8
ENABLE, DISABLE, SET_SIGNAL = 0x2400, 0x2401, 10


def cpu_clock() -> int:
    """File descriptor of a perf event that signals this thread every `PERIOD_NS` of its CPU time, once it is enabled.

    Raises:
        OSError: the kernel does not let a process sample itself, or this machine's number of the call is not known.
    """
    # struct perf_event_attr, version 0: type, size, config, period, sample_type, read_format, flags, wakeup_events, bp
    attributes = struct.pack("=IIQQQQQIIQ", SOFTWARE, 64, TASK_CLOCK, PERIOD_NS, 0, 0, DISABLED, 1, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(SYSTEM_CALL.get(platform.machine(), -1), attributes, 0, -1, -1, CLOSE_ON_EXEC)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    fcntl.fcntl(fd, SET_SIGNAL, signal.SIGPROF)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    return fd


class Sampler:
    """Counts stacks between two SIGUSR1.

    Raises:
        OSError: see `cpu_clock`.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.on = False
        self.stacks: Counter[tuple[tuple[CodeType, int], ...]] = Counter()
        self.clock = cpu_clock()

    def install(self) -> None:
        """Take over the two signals."""
        signal.signal(signal.SIGPROF, self.sample)
        signal.signal(signal.SIGUSR1, self.switch)

    def sample(self, _: int, frame: FrameType | None) -> None:
        """Note where the main thread is."""
        stack = []
        while frame:
            stack.append((frame.f_code, frame.f_lineno or 0))
            frame = frame.f_back
        self.stacks[tuple(stack)] += 1

    def switch(self, _: int, __: FrameType | None) -> None:
        """Begin, or end and write."""
        self.on = not self.on
        fcntl.ioctl(self.clock, ENABLE if self.on else DISABLE, 0)
        if not self.on:
            self.write()

    def write(self) -> None:
        """Write the file, which appears whole."""
        stacks = [
            [n, [[code.co_qualname, code.co_filename, line] for code, line in stack]]
            for stack, n in self.stacks.items()
        ]
        draft = self.out.with_suffix(".draft")
        draft.write_text(json.dumps({"stacks": stacks}))
        draft.rename(self.out)


def main() -> None:
    """Install the sampler and become the command."""
    out, command, *arguments = sys.argv[1:]
    try:
        sampler = Sampler(Path(out))
    except OSError as error:
        sys.exit(
            f"the kernel does not let a process sample itself ({error.strerror}): run as root, or set the sysctl "
            "kernel.perf_event_paranoid to 1"
        )
    (entry,) = entry_points(group="console_scripts", name=command)
    run = entry.load()
    sys.argv = [command, *arguments]
    sampler.install()
    sys.exit(run())


if __name__ == "__main__":
    main()
