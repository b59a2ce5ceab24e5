"""Runs a console command of this environment under a sampling profiler: `python -m bench.sampler OUT COMMAND ...`.

The kernel sends SIGPROF for every few milliseconds of CPU time that the process uses (not of time that passes, so idle
waiting is not seen), and the handler notes the Python stack. Time inside a C call counts for the line that made it.
SIGUSR1 begins the sampling, a second one ends it and writes OUT, innermost frame first:
`{"stacks": [[count, [[function, file, line], ...]], ...]}`.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

INTERVAL: Final = 0.001
"""Seconds of CPU time between two samples; the kernel rounds it up to its tick."""


class Sampler:
    """Counts stacks between two SIGUSR1."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.on = False
        self.stacks: Counter[tuple[tuple[CodeType, int], ...]] = Counter()

    def install(self) -> None:
        """Take over the two signals."""
        signal.signal(signal.SIGPROF, self.sample)
        signal.signal(signal.SIGUSR1, self.switch)

    def sample(self, _: int, frame: FrameType | None) -> None:
        """Note where the main thread is."""
        stack = []
        while frame:
            stack.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back
        self.stacks[tuple(stack)] += 1

    def switch(self, _: int, __: FrameType | None) -> None:
        """Begin, or end and write."""
        self.on = not self.on
        signal.setitimer(signal.ITIMER_PROF, INTERVAL if self.on else 0, INTERVAL)
        if not self.on:
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
    (entry,) = entry_points(group="console_scripts", name=command)
    run = entry.load()
    sys.argv = [command, *arguments]
    Sampler(Path(out)).install()
    sys.exit(run())


if __name__ == "__main__":
    main()
