"""How a server process starts, and how it ends, as a probe, a client and a supervisor see it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.served import GHOSTFLEET, Serve, Served, free_port

CHAT = "/v1/chat/completions"
SLOW = ("--time-to-first-token", "10ms", "--inter-token-latency", "20ms")


def question(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], "ignore_eos": True, **fields}


class Answer(threading.Thread):
    """A request that is answered beside the test."""

    def __init__(self, served: Served, **fields: Any) -> None:
        super().__init__(daemon=True)
        self._served, self._fields = served, fields
        self.response: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        self.response = httpx.post(f"{self._served.url}{CHAT}", json=question(**self._fields), timeout=30)

    def json(self) -> Any:
        """The body, once it is there."""
        self.join(30)
        assert self.response is not None
        return self.response.json()


def messages(log: Path) -> list[str]:
    """The lines of a log without time, level and logger."""
    return [line.partition(": ")[2] for line in log.read_text().splitlines()]


class Starting:
    """A process that was just started, with the ports that were given to it."""

    def __init__(self, log: Path, *flags: str, **environment: str) -> None:
        self.port, self.admin_port, self.log = free_port(), free_port(), log
        command = [str(GHOSTFLEET), "serve", "--model", "org/model", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--admin-port", str(self.admin_port), *flags]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("GHOSTFLEET_", "VLLM_"))}
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=clean | environment)

    def get(self, path: str, *, admin: bool = False) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.admin_port if admin else self.port}{path}")

    def until(self, path: str, status: int, *, admin: bool = False) -> httpx.Response:
        end = time.monotonic() + 20
        while True:
            try:
                if (answer := self.get(path, admin=admin)).status_code == status:
                    return answer
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


# --- starting ----------------------------------------------------------------------------------------


def test_connections_are_refused_until_the_server_is_ready(tmp_path: Path) -> None:
    """The port is bound all the while, so nobody else gets it; the admin API tells that the server starts."""
    starting = Starting(tmp_path / "log", "--startup-duration", "1s")
    assert starting.until("/admin/ready", 503, admin=True).json() == {"ready": False, "reason": "starting"}
    with pytest.raises(httpx.ConnectError):
        starting.get("/health")
    with socket.socket() as rival, pytest.raises(OSError, match="in use"):
        rival.bind(("127.0.0.1", starting.port))
    while True:
        try:
            first = starting.get("/health")
            break
        except httpx.ConnectError:
            time.sleep(0.02)
    assert (first.status_code, first.content) == (200, b"")
    assert starting.get("/admin/ready", admin=True).json() == {"ready": True}
    assert starting.end() == 0


def test_the_log_of_a_start_reads_as_vllms(tmp_path: Path) -> None:
    starting = Starting(tmp_path / "log", "--startup-duration", "200ms", "--max-model-len", "2048")
    starting.until("/health", 200)
    starting.end()
    assert messages(starting.log)[:9] == [
        "Starting to load model org/model...",
        "Loading weights took 0.09 seconds",
        "Model loading took 0.0 GiB memory and 0.090000 seconds",
        "torch.compile took 0.05 s in total",
        "GPU KV cache size: 262,144 tokens, Maximum concurrency for 2,048 tokens per request: 128.00x",
        "Graph capturing finished in 0 secs, took 0.00 GiB",
        "init engine (profile, create kv cache, warmup model) took 0.11 s",
        f"Starting vLLM server on http://127.0.0.1:{starting.port}",
        "Application startup complete.",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_starts_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    starting = Starting(tmp_path / "log", "--startup-duration", "1m")
    starting.until("/admin/ready", 503, admin=True)
    began = time.monotonic()
    starting.process.send_signal(number)
    assert starting.process.wait(20) == 0
    assert time.monotonic() - began < 10
    assert "Application startup complete." not in messages(starting.log)


def test_a_server_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    starting = Starting(tmp_path / "log", "--uds", str(path), "--mode", "echo")
    starting.until("/admin/ready", 200, admin=True)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://server") as client:
        with client.stream("POST", CHAT, json=question(stream=True, max_tokens=3)) as stream:
            frames = [line for line in stream.iter_lines() if line]
        assert frames[-1] == "data: [DONE]"
    with pytest.raises(httpx.ConnectError):
        starting.get("/health")
    assert f"Starting vLLM server on unix:{path}" in messages(starting.log)
    assert starting.end() == 0
    assert not path.exists()


def test_a_taken_unix_socket_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    path.touch()
    starting = Starting(tmp_path / "log", "--uds", str(path))
    assert starting.process.wait(20) == 1
    (line,) = starting.log.read_text().splitlines()
    assert line.endswith(f"cannot listen on {path} or {starting.admin_port}: Address already in use")


def test_vllms_variable_switches_the_development_mode_on(tmp_path: Path) -> None:
    starting = Starting(tmp_path / "log", VLLM_SERVER_DEV_MODE="1")
    starting.until("/health", 200)
    assert starting.get("/is_sleeping").json() == {"is_sleeping": False}
    starting.end()


def test_a_version_that_is_not_known_is_one_line() -> None:
    command = [GHOSTFLEET, "serve", "--model", "m", "--vllm-version", "0.34"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "--vllm-version" in line
    assert "0.34 is not a version of vLLM whose behaviour is known: 0.12 to 0.33.0" in line


# --- ending ------------------------------------------------------------------------------------------


def test_without_a_timeout_what_runs_is_aborted(serve: Serve) -> None:
    served = serve(*SLOW)
    answer = Answer(served, max_tokens=500)
    served.until(running=1)
    served.process.terminate()
    assert answer.json()["choices"][0]["finish_reason"] == "abort"
    assert served.process.wait(20) == 0
    told = messages(served.log)
    assert "[shutdown] API server: stopping engine client mode=abort timeout=0s" in told


def test_with_a_timeout_what_runs_ends_and_what_comes_is_turned_away(serve: Serve) -> None:
    """What comes is answered, by an answer without a token; probes still find the server alive."""
    served = serve(*SLOW, "--shutdown-timeout", "20")
    answer = Answer(served, max_tokens=120)
    served.until(running=1)
    served.process.terminate()
    served.until(draining=True)

    late = httpx.post(f"{served.url}{CHAT}", json=question(max_tokens=5)).json()
    assert late["choices"][0]["finish_reason"] == "abort"
    assert late["choices"][0]["message"]["content"] == ""
    assert late["usage"]["completion_tokens"] == 0
    with httpx.stream("POST", f"{served.url}{CHAT}", json=question(max_tokens=5, stream=True)) as stream:
        frames = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert frames[-1] == "[DONE]"
    assert json.loads(frames[-2])["choices"][0]["finish_reason"] == "abort"
    assert httpx.get(f"{served.url}/health").status_code == 200
    assert httpx.get(f"{served.admin_url}/admin/ready").json() == {"ready": False, "reason": "draining"}

    body = answer.json()
    assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("length", 120)
    assert served.process.wait(20) == 0
    assert "[shutdown] API server: stopping engine client mode=drain timeout=20s" in messages(served.log)


def test_a_server_that_drains_keeps_its_connections(serve: Serve) -> None:
    """As vLLM does, whose HTTP server is told of the end only when the engine has stopped: no `Connection: close`."""
    served = serve(*SLOW, "--shutdown-timeout", "20")
    answer = Answer(served, max_tokens=120)
    served.until(running=1)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    for signalled in (False, True):
        connection.request("GET", "/health")
        response = connection.getresponse()
        assert (response.read(), response.status, response.getheader("connection")) == (b"", 200, None)
        if not signalled:
            used = connection.sock
            served.process.terminate()
            served.until(draining=True)
    assert connection.sock is used
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert served.process.wait(20) == 0


def test_what_outlasts_the_timeout_is_aborted(serve: Serve) -> None:
    served = serve(*SLOW, "--shutdown-timeout", "1")
    answer = Answer(served, max_tokens=2000)
    served.until(running=1)
    served.process.terminate()
    assert answer.json()["choices"][0]["finish_reason"] == "abort"
    assert served.process.wait(20) == 0


def test_a_second_signal_changes_nothing(serve: Serve) -> None:
    served = serve(*SLOW, "--shutdown-timeout", "20")
    answer = Answer(served, max_tokens=40)
    served.until(running=1)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        served.process.send_signal(number)
        time.sleep(0.05)
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert served.process.wait(20) == 0
    assert messages(served.log).count("[shutdown] API server: shutdown triggered") == 1


def test_a_server_that_drains_goes_on_serving(serve: Serve) -> None:
    """`/admin/drain` takes readiness away and nothing else: endpoints are withdrawn before the end comes."""
    served = serve()
    assert httpx.post(f"{served.admin_url}/admin/drain").status_code == 202
    assert httpx.get(f"{served.admin_url}/admin/ready").json() == {"ready": False, "reason": "draining"}
    body = httpx.post(f"{served.url}{CHAT}", json=question(max_tokens=3)).json()
    assert body["choices"][0]["finish_reason"] == "length"
