"""Clients that misbehave do not delay the tokens of those that do not, and the memory they took comes back.

The well-behaved client is a process of its own (`probe`), run once in peace and once under each load. The machine's own
delays are its too: it is asked for as much patience as the probe's own wake-ups needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Figures, Serve, Served
from .loads import IDLE, LOADS, Load

pytestmark = [pytest.mark.soak, pytest.mark.quiet]
SOAK = os.environ.get("GHOSTFLEET_SOAK") == "1"
SECONDS = 10.0 if SOAK else 2.0
STREAMS, ITL_MS = 16, 20
MOST_LATE_MS = 50.0
FLOOR_MS = 12.0
"""A p99 below this is as good as nothing on a shared machine."""
MOST_GROWTH_BYTES = 32 << 20
ATTEMPTS = 3
BACK_WITHIN_S = 20
"""The process that reads large bodies ends some seconds after the last."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def paced(serve: Serve) -> Served:
    """A server with room for all, 20 ms between two tokens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return serve("--time-to-first-token", "50ms", "--inter-token-latency", f"{ITL_MS}ms", "--max-num-seqs", "1024")
    finally:
        if soft != resource.RLIM_INFINITY and soft > 3 * IDLE:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def probe(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.adverse.probe", str(port), str(STREAMS), str(SECONDS), str(ITL_MS)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def seen(process: subprocess.Popen[bytes]) -> dict[str, float]:
    out, _ = process.communicate(timeout=SECONDS + 60)
    found: dict[str, float] = json.loads(out)
    assert found["least_tokens"] > SECONDS * 1e3 / ITL_MS * 0.5
    return found


@pytest.fixture(scope="module")
def calm(paced: Served) -> dict[str, float]:
    """What the probe sees with nobody else there."""
    return seen(probe(paced.port))


def grown(served: Served, before: int) -> int:
    """By how many bytes the server and its child are larger, once that is little or has had its time."""
    end = time.monotonic() + BACK_WITHIN_S
    while (growth := served.resident_bytes(family=True) - before) > MOST_GROWTH_BYTES and time.monotonic() < end:
        time.sleep(0.2)
    return growth


def on_time(calm: dict[str, float], under: dict[str, float]) -> bool:
    """No token came later than 50 ms, and the p99 of the gap error at most doubled."""
    latest = max(MOST_LATE_MS, 2 * calm["late_max_ms"]) + 2 * under["own_late_max_ms"]
    error = max(FLOOR_MS, 2 * calm["gap_error_p99_ms"]) + 2 * under["own_late_p99_ms"]
    return under["late_max_ms"] < latest and under["gap_error_p99_ms"] < error


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_others_keep_their_pace(paced: Served, calm: dict[str, float], load: Load, figures: Figures) -> None:
    """Their tokens are on time, and memory comes back.

    Neighbours on the machine may hold up a run; what the server itself holds up it does in every run.
    """
    asyncio.run(load(paced.port, 0.5))  # what is set up once is not growth
    paced.until(running=0, waiting=0)
    before = paced.resident_bytes()
    for _ in range(ATTEMPTS):
        watch = probe(paced.port)
        asyncio.run(load(paced.port, SECONDS))
        under = seen(watch)
        state = paced.until(running=0, waiting=0, kvUsage=0.0)
        changes = (f"{key} {calm[key]:.1f} -> {under[key]:.1f}" for key in sorted(under) if key.endswith("_ms"))
        figures(f"{load.__name__}: {'; '.join(changes)}")
        if on_time(calm, under):
            break
    else:
        pytest.fail(f"late in each of {ATTEMPTS} runs: {under}, in peace {calm}")
    growth = grown(paced, before)
    figures(f"{load.__name__}: {growth / 2**20:+.1f} MiB")
    assert growth < MOST_GROWTH_BYTES, state
    assert paced.process.poll() is None
    assert "Traceback" not in paced.log.read_text()
