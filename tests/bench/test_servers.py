"""Servers are started cleanly, waited for and ended with everything they started."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

import pytest
from bench.client import BenchError
from bench.servers import Command, Existing, Pace, answer, family

PACE = Pace(100, 20)
TOY = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('toy_server.py')))}"


def gone(pid: int) -> bool:
    """Whether the process ends within five seconds."""
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def python(code: str) -> Command:
    return Command("toy", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {{port}}", PACE)


def test_a_command_gets_port_and_pace_and_keeps_other_braces() -> None:
    """JSON in a command is left alone."""
    toy = Command("x", "serve --port {port} --ttft={ttft} --itl {itl} '{\"a\": {}}'", PACE)
    words = toy.arguments(81, Pace(0, 2.5))
    assert words == ["serve", "--port", "81", "--ttft=0ms", "--itl", "2.5ms", '{"a": {}}']


def test_only_a_command_that_takes_the_pace_can_be_had_at_another_one() -> None:
    """One without {itl} is taken to be made for the bench's pace."""
    assert Command("x", "serve {port} {itl}", PACE).can(Pace(0, 0))
    assert not Command("x", "serve {port}", PACE).can(Pace(0, 0))
    assert Command("x", "serve {port}", PACE).can(PACE)


def test_a_command_without_a_port_is_refused() -> None:
    """The bench could not find it."""
    with pytest.raises(BenchError, match=r"no \{port\}"):
        Command("x", "serve", PACE)


def test_a_started_server_answers_and_is_gone_afterwards() -> None:
    """It is ready inside the context, and its start-up time is told."""
    with Command("toy", f"{TOY} {{port}} {{ttft}} {{itl}}", PACE).running(PACE) as server:
        assert answer("127.0.0.1", server.endpoint.port, "/health") == 404
        assert server.start_s is not None
        assert 0 < server.start_s < 30
        assert server.endpoint.model == "bench"
    assert gone(server.pid)


def test_what_a_server_starts_is_measured_and_ended_with_it() -> None:
    """Workers count in its CPU time, and none is left behind, even if the server forgets it."""
    code = (
        "import subprocess, sys, http.server as h\n"
        "subprocess.Popen(['sleep', '600'])\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    with python(code).running(PACE) as server:
        parent, child = server.endpoint.pids
        assert parent == server.pid
    assert gone(parent)
    assert gone(child)


def test_a_server_that_ends_at_once_is_quoted() -> None:
    """The last line it said is the reason."""
    with (
        pytest.raises(BenchError, match="toy ended with 3 before it answered: no such model"),
        python("import sys; print('begin\\nno such model', file=sys.stderr); sys.exit(3)").running(PACE),
    ):
        pytest.fail("it never ran")


def test_a_program_that_is_not_there_is_named() -> None:
    """No traceback for a misspelt path."""
    with (
        pytest.raises(BenchError, match="toy: /no/such/program: No such file"),
        Command("toy", "/no/such/program {port}", PACE).running(PACE),
    ):
        pytest.fail("it never ran")


def test_a_server_sees_nothing_that_could_configure_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the environment of whoever runs the bench stay out."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with (
        pytest.raises(BenchError) as error,
        python("import os; print(sorted(os.environ)); raise SystemExit(1)").running(PACE),
    ):
        pytest.fail("it never ran")
    assert "PATH" in str(error.value)
    assert "VLLM" not in str(error.value)
    assert "PYTHONPATH" not in str(error.value)


def test_a_running_server_is_used_and_left_running() -> None:
    """Its process is the one that was named, its URL's path comes before the API's."""
    with Command("toy", f"{TOY} {{port}} {{ttft}} {{itl}}", PACE).running(PACE) as started:
        url = f"http://127.0.0.1:{started.endpoint.port}/base/"
        with Existing("other", url, started.pid, PACE).running(PACE) as found:
            assert (found.endpoint.prefix, found.pid, found.start_s) == ("/base", started.pid, None)
        assert answer("127.0.0.1", started.endpoint.port, "/health") == 404


@pytest.mark.parametrize(
    ("url", "pid", "message"),
    [
        ("127.0.0.1:8000", os.getpid(), "not a URL like http://"),
        ("http://127.0.0.1:8000", 2**22 + 1, "no such process"),
        ("http://127.0.0.1:1", os.getpid(), "nothing answers"),
    ],
    ids=["no URL", "no process", "no server"],
)
def test_a_running_server_that_is_not_there_is_told(url: str, pid: int, message: str) -> None:
    """One line each for a bad address, a missing process and a silent port."""
    with pytest.raises(BenchError, match=message), Existing("other", url, pid, PACE).running(PACE):
        pytest.fail("it never ran")


def test_a_family_begins_with_its_head() -> None:
    """A process without children is its own family."""
    assert family(os.getpid())[0] == os.getpid()
