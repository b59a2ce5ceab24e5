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
from pathlib import Path

from bench.client import BenchError, Load, measure
from bench.servers import Command, Running
from bench.stacks import Stacks, native_shares, table
from bench.streaming import PACE


def profile(binary: Path, command: str, streams: int, window: float, tell: Callable[[str], None]) -> str:
    """Put `streams` paced streams on our server for `window` seconds and tell what a token's time is made of.

    Two or three runs: as it is (the figure that counts), under the Python sampler (how the whole is shared out among
    functions), and, where there is `perf`, the same for C functions and the kernel.
    """
    wrapped, out = sampled(command)
    load = Load.paced(streams, max_tokens=500, ttft_ms=PACE.ttft_ms, itl_ms=PACE.itl_ms, window=window)
    tell(f"{streams} streams for {load.warm_up + window:g} s, as it is")
    with Command("ghostfleet", command, PACE).running(PACE) as server:
        cost = measure(binary, server.endpoint, load).cpu_us_per_token
    tell(f"{streams} streams for {load.warm_up + window:g} s, under the sampler")
    stacks = python_stacks(binary, wrapped, out, load)
    blocks = [
        f"{cost:.2f} us of CPU per token at {streams} streams; below, shares of it from {stacks.total} samples",
        table("us per token in the function itself and the C code it calls", stacks.own(), cost),
        table("us per token in the function and all it calls", stacks.inclusive(), cost),
        table("us per token at the line", stacks.lines(), cost),
    ]
    if shutil.which("perf"):
        tell(f"{streams} streams for {load.warm_up + window:g} s, under perf")
        objects, symbols = native_shares(perf(binary, command, load))
        if not symbols:
            blocks.append("`perf` may not record here, so C functions and the kernel are not told apart.")
        blocks += [table("us per token by shared object", objects, cost)] if objects else []
        blocks += [table("us per token by C function", symbols, cost)] if symbols else []
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


def python_stacks(binary: Path, wrapped: str, out: Path, load: Load) -> Stacks:
    """A run under `bench.sampler`, which writes to `out`, sampled in the window."""
    try:
        with Command("ghostfleet", wrapped, PACE).running(PACE) as server:
            measure(binary, server.endpoint, load, lambda: sample_window(server, load))
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


def perf(binary: Path, command: str, load: Load) -> str:
    """A run under `perf record`; what `perf report` says of it, empty if nothing could be recorded."""
    with (
        tempfile.TemporaryDirectory(prefix="ghostfleet-bench-") as folder,
        Command("ghostfleet", command, PACE).running(PACE) as server,
    ):
        data = Path(folder) / "perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "2000", "-o", str(data), "-p", str(server.pid)]

        def during() -> None:
            time.sleep(load.warm_up)
            subprocess.run([*record, "--", "sleep", f"{load.window * 0.95:g}"], capture_output=True, check=False)

        measure(binary, server.endpoint, load, during)
        report = ["perf", "report", "-i", str(data), "--stdio", "-q", "--sort", "dso,symbol", "-t", ";"]
        found = subprocess.run([*report, "-F", "sample,dso,symbol"], capture_output=True, text=True, check=False)
    return found.stdout
