"""`python -m bench` as a person runs it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('toy_server.py')))}"
BENCH = [sys.executable, "-m", "bench"]


def bench(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *flags], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


def processes(marker: str) -> list[int]:
    """Processes whose command line has the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found


def test_two_servers_are_measured_in_turn(tmp_path: Path) -> None:
    """Two rounds of every kind of load, with all measurements in the file; a peer that is late shows as late."""
    out = tmp_path / "deep" / "results.json"
    done = bench(
        *(
            "--streams",
            "4",
            "--rounds",
            "2",
            "--max-tokens",
            "20",
            "--warm-up",
            "0.4",
            "--window",
            "0.6",
            "--output",
            str(out),
        ),
        *("--command", f"{TOY} {{port}} {{ttft}} {{itl}}", "--peer-name", "late"),
        *("--peer-command", f"{TOY} {{port}} 130ms 30ms {{itl}}"),
    )
    assert done.returncode == 0, done.stderr
    turns = [line.split(", ")[-1].split(":")[0] for line in done.stderr.splitlines() if ", round " in line]
    assert turns == ["ghostfleet", "late"] * 8 + ["ghostfleet", "scraped"] * 2
    scenarios = {scenario["kind"]: scenario for scenario in json.loads(out.read_text())["scenarios"]}
    assert list(scenarios) == ["paced", "unpaced", "requests", "whole", "scrapes"]
    assert len(scenarios["paced"]["rounds"]) == 2
    for round_ in scenarios["paced"]["rounds"]:
        ours, late = round_["ghostfleet"]["measurement"], round_["late"]["measurement"]
        assert ours["tokens"] > late["tokens"] > 0
        assert ours["merged"] == late["merged"] == 0
        assert late["gap_error_us"]["mean_signed"] >= 9_000
        assert late["ttft_error_us"]["p50"] >= 29_000
        assert ours["server_cpu_s"] > 0
    assert all(0 < ratio < 1 for ratio in scenarios["paced"]["ratios"]["gap error, mean"])
    for kind, stream in (("requests", True), ("whole", False)):
        assert scenarios[kind]["load"]["stream"] == stream
        assert scenarios[kind]["rounds"][0]["ghostfleet"]["measurement"]["requests"] > 0
    assert "ghostfleet / late = " in done.stdout


def test_ctrl_c_ends_the_servers_that_were_started(tmp_path: Path) -> None:
    """Exit code 130, one line, no process left, no half a result."""
    marker, out = f"--marker={tmp_path}", tmp_path / "results.json"
    command = f"{TOY} {{port}} {{ttft}} {{itl}} {marker}"
    with subprocess.Popen(
        [*BENCH, "--only", "paced", "--streams", "2", "--command", command, "--output", str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        until = time.monotonic() + 60
        while not processes(marker):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.5)
        run.send_signal(signal.SIGINT)
        _, error = run.communicate(timeout=30)
    assert run.returncode == 130
    assert error.splitlines()[-1].startswith("bench: interrupted")
    assert "Traceback" not in error
    assert processes(marker) == []
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stream", "64"], "unrecognized arguments: --stream"),
        (["--streams", "many"], "--streams: invalid streams value: 'many'"),
        (["--only", "fast"], "--only: invalid choice: 'fast'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--window", "0"], "--window above 0"),
        (["--peer", "http://127.0.0.1:8000"], "--peer and --peer-pid go together"),
        (["--peer", "http://x", "--peer-pid", "1", "--peer-command", "x {port}"], "not both"),
        (["--peer-name", "ghostfleet", "--peer-command", "x {port}"], "what our own server is called"),
    ],
)
def test_a_wrong_flag_gets_one_line_and_exit_code_2(flags: list[str], words: str) -> None:
    """The line names the flag and what is wrong with it."""
    done = bench(*flags)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--command", "serve"], "no {port}"),
        (["--command", "/no/such/program {port}"], "/no/such/program: No such file"),
        (["--profile", "--command", "other serve {port}"], "--profile needs a ghostfleet command, not other"),
        (["--peer", "http://127.0.0.1:8000", "--peer-pid", "999999999"], "no such process"),
    ],
)
def test_a_server_that_cannot_be_measured_gets_one_line_and_exit_code_1(flags: list[str], words: str) -> None:
    """No traceback reaches a person."""
    done = bench("--window", "1", *flags)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("bench: ")
    assert words in done.stderr.splitlines()[-1]
