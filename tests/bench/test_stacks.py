"""Samples become shares of the CPU time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.sampler import cpu_clock
from bench.stacks import Stacks, native_shares, table

ROOT = Path(__file__).resolve().parents[2]


def test_the_sampler_finds_where_the_cpu_time_goes(tmp_path: Path) -> None:
    """Of two functions that work, one three times as long, and one that sleeps, the shares come out as they are."""
    try:
        os.close(cpu_clock())
    except PermissionError:
        pytest.skip("the kernel lets only root sample (kernel.perf_event_paranoid is above 1)")
    out = tmp_path / "stacks.json"
    code = """
import os, signal, sys, time
from pathlib import Path
from bench.sampler import Sampler

def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
def often(): burn(0.3)
def seldom(): burn(0.1)
def wait(): time.sleep(0.4)

Sampler(Path(sys.argv[1])).install()
os.kill(os.getpid(), signal.SIGUSR1)
for _ in range(4): often(); seldom(); wait()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, check=True, timeout=60)
    stacks = Stacks.read(out)
    assert stacks.total == pytest.approx(1600, rel=0.05)
    inclusive = stacks.inclusive()
    assert inclusive["often (<string>)"] == pytest.approx(0.75, abs=0.03)
    assert inclusive["seldom (<string>)"] == pytest.approx(0.25, abs=0.03)
    assert inclusive.get("wait (<string>)", 0) < 0.02
    assert stacks.own()["burn (<string>)"] > 0.95


def test_a_stack_counts_once_for_each_of_its_functions(tmp_path: Path) -> None:
    """Recursion counts once, and what asyncio does because of the sampling does not count at all."""
    main, again = ["main", "/x/serve.py", 1], ["again", "/x/a.py", 5]
    notice = ["BaseSelectorEventLoop._read_from_self", "/y/selector_events.py", 3]
    out = tmp_path / "stacks.json"
    out.write_text(
        json.dumps({"stacks": [[20, [again, again, main]], [10, [["b", "/x/b.py", 7], main]], [5, [notice, main]]]})
    )
    stacks = Stacks.read(out)
    assert stacks.total == 30
    assert stacks.own() == {"again (x/a.py)": pytest.approx(2 / 3), "b (x/b.py)": pytest.approx(1 / 3)}
    assert stacks.inclusive()["main (x/serve.py)"] == 1
    assert stacks.inclusive()["again (x/a.py)"] == pytest.approx(2 / 3)
    assert stacks.lines() == {"again (x/a.py):5": pytest.approx(2 / 3), "b (x/b.py):7": pytest.approx(1 / 3)}


def test_a_table_tells_microseconds_of_the_cost_largest_first() -> None:
    """Shares of 10 us per token; what is below half a per cent is left out."""
    lines = table("title", {"small": 0.25, "tiny": 0.004, "large": 0.75}, 10.0).splitlines()
    assert lines == ["title", "    7.50   75.0%  large", "    2.50   25.0%  small"]


def test_perfs_report_is_read() -> None:
    """Lines that are no samples are passed over, and so are the columns that perf adds."""
    text = "# header\n 300   ;[kernel]  ;[k] tcp_sendmsg  ;-  -\n 100;libpython.so;[.] _PyEval\n\n"
    objects, symbols = native_shares(text)
    assert objects == {"[kernel]": 0.75, "libpython.so": 0.25}
    assert symbols == {"[k] tcp_sendmsg ([kernel])": 0.75, "[.] _PyEval (libpython.so)": 0.25}
    assert native_shares("nothing") == ({}, {})
