"""Where the microseconds of a token go: our server under a sampling profiler, and under `perf` where there is one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.client import BenchError, Load, Measurement, measure
from bench.servers import Command, Running
from bench.streaming import PACE

TOP: Final = 30
LEAST: Final = 0.01
"""Share of the CPU time below which a function is left out."""

Frame = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Stacks:
    """Sampled stacks, innermost frame (function, file, line) first, and how often each was seen."""

    counts: Sequence[tuple[int, Sequence[Frame]]]

    @classmethod
    def read(cls, path: Path) -> Stacks:
        """Read what `bench.sampler` wrote."""
        stacks = json.loads(path.read_text())["stacks"]
        return cls([(count, [(str(f), str(file), int(line)) for f, file, line in frames]) for count, frames in stacks])

    @property
    def total(self) -> int:
        """How many samples there are."""
        return sum(count for count, _ in self.counts)

    def own(self) -> Counter[str]:
        """Samples by the function they were taken in."""
        return self._by(lambda frames: [function(frames[0])] if frames else [])

    def inclusive(self) -> Counter[str]:
        """Samples by every function on the stack, once each."""
        return self._by(lambda frames: {function(frame) for frame in frames})

    def lines(self) -> Counter[str]:
        """Samples by the line they were taken at."""
        return self._by(lambda frames: [f"{function(frames[0])}:{frames[0][2]}"] if frames else [])

    def _by(self, keys: Callable[[Sequence[Frame]], Iterable[str]]) -> Counter[str]:
        found: Counter[str] = Counter()
        for count, frames in self.counts:
            for key in keys(frames):
                found[key] += count
        return found


def function(frame: Frame) -> str:
    """A function with the file that holds it, as far up as its package's folder tells something."""
    name, file, _ = frame
    return f"{name} ({'/'.join(Path(file).parts[-2:])})"


def cpu_times(pid: int) -> tuple[float, float]:
    """User and kernel CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def sampled(command: str) -> tuple[str, Path]:
    """The command that runs `command` under the sampler, and where its samples will be."""
    program, *arguments = shlex.split(command)
    if Path(program).name != "ghostfleet":
        raise BenchError(f"--profile needs a ghostfleet command, not {program}")
    out = Path(tempfile.mkdtemp(prefix="ghostfleet-bench-")) / "stacks.json"
    return shlex.join([sys.executable, "-m", "bench.sampler", str(out), "ghostfleet", *arguments]), out


def profile(binary: Path, command: str, streams: int, window: float, tell: Callable[[str], None]) -> str:
    """Put `streams` paced streams on our server for `window` seconds and tell what a token's time is made of.

    Two or three runs: as it is (the figure that counts, and its user and kernel part), under the Python sampler (how
    the whole is shared out among functions), and, where there is `perf`, the same for C functions and the kernel.
    """
    load = Load.paced(streams, max_tokens=500, ttft_ms=PACE.ttft_ms, itl_ms=PACE.itl_ms, window=window)
    wrapped, out = sampled(command)
    tell(f"{streams} streams for {load.warm_up + window:g} s, as it is")
    plain, user, kernel = undisturbed(binary, command, load)
    cost = plain.cpu_us_per_token
    tell(f"{streams} streams for {load.warm_up + window:g} s, under the sampler")
    stacks = python_stacks(binary, wrapped, out, load)
    if not stacks.total:
        raise BenchError("the sampler saw nothing: the window is too short")
    blocks = [
        (
            f"{cost:.2f} us of CPU per token at {streams} streams: {cost * user / (user + kernel):.2f} in user code, "
            f"{cost * kernel / (user + kernel):.2f} in the kernel; below, shares of it from {stacks.total} samples"
        ),
        shares("us per token in the function itself and the C code it calls", stacks.own(), stacks.total, cost),
        shares("us per token in the function and all it calls", stacks.inclusive(), stacks.total, cost),
        shares("us per token at the line", stacks.lines(), stacks.total, cost),
    ]
    if shutil.which("perf"):
        tell(f"{streams} streams for {load.warm_up + window:g} s, under perf")
        blocks.append(native(binary, command, load, cost))
    else:
        blocks.append(
            "There is no `perf` here (Debian package linux-perf), so C functions and the kernel are not told apart."
        )
    return "\n\n".join(blocks)


def undisturbed(binary: Path, command: str, load: Load) -> tuple[Measurement, float, float]:
    """A plain run: the measurement, and the user and kernel seconds of the whole run."""
    with Command("ghostfleet", command, PACE).running(PACE) as server:
        before = cpu_times(server.pid)
        measurement = measure(binary, server.endpoint, load)
        after = cpu_times(server.pid)
    return measurement, after[0] - before[0], max(after[1] - before[1], 1e-9)


def python_stacks(binary: Path, wrapped: str, out: Path, load: Load) -> Stacks:
    """A run under `bench.sampler`, which writes to `out`, sampled in the window."""
    try:
        with Command("ghostfleet", wrapped, PACE).running(PACE) as server:
            measure(binary, server.endpoint, load, lambda: sample_window(server, load))
            deadline = time.monotonic() + 10
            while not out.exists():
                if time.monotonic() > deadline:
                    raise BenchError("the sampler wrote nothing")
                time.sleep(0.05)
        return Stacks.read(out)
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)


def sample_window(server: Running, load: Load) -> None:
    """Switch the sampler on after the warm-up and off at the end of the window."""
    time.sleep(load.warm_up)
    os.kill(server.pid, signal.SIGUSR1)
    time.sleep(load.window - 0.5)
    os.kill(server.pid, signal.SIGUSR1)


def native(binary: Path, command: str, load: Load, cost: float) -> str:
    """A run under `perf record`: shares of C functions and of the kernel."""
    with (
        tempfile.TemporaryDirectory(prefix="ghostfleet-bench-") as folder,
        Command("ghostfleet", command, PACE).running(PACE) as server,
    ):
        data = Path(folder) / "perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "2000", "-o", str(data), "-p", str(server.pid)]

        def during() -> None:
            time.sleep(load.warm_up)
            subprocess.run([*record, "--", "sleep", f"{load.window - 0.5:g}"], capture_output=True, check=False)

        measure(binary, server.endpoint, load, during)
        if not data.exists():
            return "`perf` is not allowed to record here, so C functions and the kernel are not told apart."
        sort = ("--sort", "dso,symbol", "-F", "sample,dso,symbol", "-t", ";")
        report = subprocess.run(
            ["perf", "report", "-i", str(data), "--stdio", "-q", *sort], capture_output=True, text=True, check=False
        )
    return native_shares(report.stdout, cost)


def native_shares(text: str, cost: float) -> str:
    """Tables of `perf report`'s lines `samples; object; symbol; ...`."""
    objects: Counter[str] = Counter()
    symbols: Counter[str] = Counter()
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(";")]
        if len(parts) >= 3 and parts[0].isdigit():
            objects[parts[1]] += int(parts[0])
            symbols[f"{parts[2]} ({parts[1]})"] += int(parts[0])
    total = sum(objects.values())
    if not total:
        return "`perf` recorded nothing."
    return "\n\n".join(
        [
            shares("us per token by shared object", objects, total, cost),
            shares("us per token by C function", symbols, total, cost),
        ]
    )


def shares(title: str, counts: Counter[str], total: int, cost: float) -> str:
    """The largest counts as microseconds per token and percent."""
    rows = [
        f"{cost * n / total:8.2f}  {n / total:6.1%}  {what}"
        for what, n in counts.most_common(TOP)
        if n >= LEAST * total
    ]
    return "\n".join([title, *rows])
