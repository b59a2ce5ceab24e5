"""The servers that are measured: started for one run and ended after it, or already running."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.client import BenchError, Endpoint

ROOT: Final = Path(__file__).resolve().parent.parent
START_TIMEOUT: Final = 60.0
OURS: Final = (
    f"{shlex.quote(str(Path(sys.executable).with_name('ghostfleet')))} serve --model bench "
    "--host 127.0.0.1 --port {port} --max-model-len 8192 --max-num-seqs 1024 --num-gpu-blocks-override 131072 "
    "--time-to-first-token {ttft} --inter-token-latency {itl} --log-level warning"
)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a server is told to do: milliseconds to the first token and between tokens; both 0 for as fast as it can."""

    ttft_ms: float
    itl_ms: float


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers; `start_s` is the time from its start to its first answer, None if it ran before."""

    endpoint: Endpoint
    pid: int
    start_s: float | None


@dataclass(frozen=True, slots=True)
class Command:
    """A server that the bench starts afresh for each run.

    `template` is split like a shell does, and `{port}`, `{ttft}` and `{itl}` in it are replaced (8123, 100ms, 20ms).
    """

    name: str
    template: str
    paced_at: Pace

    def __post_init__(self) -> None:
        if "{port}" not in self.template:
            raise BenchError(f"the command of {self.name} has no {{port}}: {self.template}")

    def can(self, pace: Pace) -> bool:
        """At any pace if the command says it with `{itl}`; else only at the one it is made for."""
        return "{itl}" in self.template or pace == self.paced_at

    def arguments(self, port: int, pace: Pace) -> list[str]:
        """The command as a list of arguments."""
        values = {"{port}": str(port), "{ttft}": f"{pace.ttft_ms:g}ms", "{itl}": f"{pace.itl_ms:g}ms"}
        words = shlex.split(self.template)
        for key, value in values.items():
            words = [word.replace(key, value) for word in words]
        return words

    @contextmanager
    def running(self, pace: Pace) -> Iterator[Running]:
        """Start it on a free loopback port with a clean environment; end it and its children when the context ends.

        Raises:
            BenchError: it cannot be started, ends, or does not answer within a minute.
        """
        port = free_port()
        words = self.arguments(port, pace)
        with tempfile.TemporaryFile("w+") as log:
            began = time.monotonic()
            try:
                process = subprocess.Popen(  # a session of its own: Ctrl-C reaches the bench alone, which then ends it
                    words,
                    cwd=ROOT,
                    env=clean_environment(),
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"{self.name}: {words[0]}: {error.strerror}") from error
            try:
                while answer("127.0.0.1", port, "/health") in (None, 503):
                    if process.poll() is not None:
                        log.seek(0)
                        last = (log.read().strip() or "it said nothing").splitlines()[-1]
                        raise BenchError(f"{self.name} ended with {process.returncode} before it answered: {last}")
                    if time.monotonic() - began > START_TIMEOUT:
                        raise BenchError(f"{self.name} did not answer on port {port} within {START_TIMEOUT:g} s")
                    time.sleep(0.005)
                start_s = time.monotonic() - began
                endpoint = Endpoint("127.0.0.1", port, "", model_of("127.0.0.1", port, ""), family(process.pid))
                yield Running(endpoint, process.pid, start_s)
            finally:
                end(process)


@dataclass(frozen=True, slots=True)
class Existing:
    """A server that runs already, with the process that does its work."""

    name: str
    url: str
    pid: int
    paced_at: Pace

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise BenchError(f"--peer {self.url} is not a URL like http://127.0.0.1:8000")
        if not Path(f"/proc/{self.pid}").exists():
            raise BenchError(f"--peer-pid {self.pid}: there is no such process")

    def can(self, pace: Pace) -> bool:
        """Only at the pace it was started with, which is taken to be the bench's."""
        return pace == self.paced_at

    @contextmanager
    def running(self, pace: Pace) -> Iterator[Running]:  # noqa: ARG002  # its pace is what it was started with
        """The server as it is; it is left running."""
        parts = urlsplit(self.url)
        host, port, prefix = parts.hostname or "", parts.port or 80, parts.path.rstrip("/")
        if answer(host, port, f"{prefix}/health") is None:
            raise BenchError(f"{self.name}: nothing answers at {self.url}")
        yield Running(Endpoint(host, port, prefix, model_of(host, port, prefix), family(self.pid)), self.pid, None)


def clean_environment() -> dict[str, str]:
    """What a measured server gets to see of this environment: nothing that could configure it."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answer(host: str, port: int, path: str) -> int | None:
    """Status of a GET, None if nothing answers."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def model_of(host: str, port: int, prefix: str) -> str:
    """First name in the server's model list; `bench` if it has no such list."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", f"{prefix}/v1/models")
        name: str = json.loads(connection.getresponse().read())["data"][0]["id"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return "bench"
    finally:
        connection.close()
    return name


def family(pid: int) -> tuple[int, ...]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return tuple(found)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads its own session: politely, after five seconds with force, and what it left behind."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
