"""Where the microseconds of a token go: our server under a sampling profiler, and under `perf` where there is one."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.client import BenchError, Load, Measurement, measure
from bench.report import Kind
from bench.servers import Command, Pace, Running
from bench.stacks import Stacks, native_shares, table
from bench.streaming import PACE


@dataclass(frozen=True, slots=True)
class Subject:
    """What is profiled: a load, the pace of the server under it, and what its CPU time is shared out among."""

    kind: Kind
    pace: Pace
    load: Load

    @property
    def unit(self) -> str:
        """What one of the figures is about."""
        return "request" if self.kind.by_request else "token"

    def cost(self, measurement: Measurement) -> float:
        """Microseconds of CPU per token or request."""
        return measurement.cpu_us_per_request if self.kind.by_request else measurement.cpu_us_per_token


def profile(binary: Path, command: str, subject: Subject, tell: Callable[[str], None]) -> str:
    """Put the load on our server two or three times and tell what the time of a token or request is made of.

    As it is (the figure that counts), under the Python sampler (how the whole is shared out among functions), and,
    where there is `perf`, under that (the same for C functions and the kernel).
    """
    wrapped, out = sampled(command)
    load, unit = subject.load, subject.unit
    what = f"{subject.kind}, {load.streams} streams, {load.warm_up + load.window:g} s"
    tell(f"{what}, as it is")
    with Command("ghostfleet", command, PACE).running(subject.pace) as server:
        cost = subject.cost(measure(binary, server.endpoint, load))
    tell(f"{what}, under the sampler")
    stacks = python_stacks(binary, wrapped, out, subject)
    blocks = [
        f"{cost:.2f} us of CPU per {unit} ({what}); below, shares of it from {stacks.total} samples",
        table(f"us per {unit} in the function itself and the C code it calls", stacks.own(), cost),
        table(f"us per {unit} in the function and all it calls", stacks.inclusive(), cost),
        table(f"us per {unit} at the line", stacks.lines(), cost),
    ]
    if shutil.which("perf"):
        tell(f"{what}, under perf")
        objects, symbols = native_shares(perf(binary, command, subject))
        if not symbols:
            blocks.append("`perf` may not record here, so C functions and the kernel are not told apart.")
        blocks += [table(f"us per {unit} by shared object", objects, cost)] if objects else []
        blocks += [table(f"us per {unit} by C function", symbols, cost)] if symbols else []
    else:
        blocks.append("Without `perf` (Debian package linux-perf) C functions and the kernel are not told apart.")
    return "\n\n".join(blocks)


def sampled(command: str) -> tuple[str, Path]:
    """The command that runs `command` under the sampler, and where its samples will be."""
    program, *arguments = shlex.split(command)
    if Path(program).name != "ghostfleet":
        raise BenchError(f"--profile needs a ghostfleet command, not {program}")
    out = Path(tempfile.mkdtemp(prefix="ghostfleet-bench-")) / "stacks.json"
    return shlex.join([sys.executable, "-m", "bench.sampler", str(out), "ghostfleet", *arguments]), out


def python_stacks(binary: Path, wrapped: str, out: Path, subject: Subject) -> Stacks:
    """A run under `bench.sampler`, which writes to `out`, sampled in the window."""
    try:
        with Command("ghostfleet", wrapped, PACE).running(subject.pace) as server:
            measure(binary, server.endpoint, subject.load, lambda: sample_window(server, subject.load))
            until = time.monotonic() + 10
            while not out.exists():
                if time.monotonic() > until:
                    raise BenchError("the sampler wrote nothing")
                time.sleep(0.05)
        return Stacks.read(out)
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)


def sample_window(server: Running, load: Load) -> None:
    """Switch the sampler on after the warm-up and off just before the end of the window."""
    time.sleep(load.warm_up)
    os.kill(server.pid, signal.SIGUSR1)
    time.sleep(load.window * 0.95)
    os.kill(server.pid, signal.SIGUSR1)


def perf(binary: Path, command: str, subject: Subject) -> str:
    """A run under `perf record`; what `perf report` says of it, empty if nothing could be recorded."""
    with (
        tempfile.TemporaryDirectory(prefix="ghostfleet-bench-") as folder,
        Command("ghostfleet", command, PACE).running(subject.pace) as server,
    ):
        load = subject.load
        data = Path(folder) / "perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "2000", "-o", str(data), "-p", str(server.pid)]

        def during() -> None:
            time.sleep(load.warm_up)
            subprocess.run([*record, "--", "sleep", f"{load.window * 0.95:g}"], capture_output=True, check=False)

        measure(binary, server.endpoint, load, during)
        report = ["perf", "report", "-i", str(data), "--stdio", "-q", "--sort", "dso,symbol", "-t", ";"]
        found = subprocess.run([*report, "-F", "sample,dso,symbol"], capture_output=True, text=True, check=False)
    return found.stdout
