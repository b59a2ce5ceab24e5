"""Routers of others' making as processes, in front of servers of ours."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.environments import python_with
from e2e.shell import Failure
from tests.served import free_port

PATIENCE_S = 120


class Router:
    """A router that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, metrics_port: int, log: Path) -> None:
        self.process, self.log = process, log
        self.url = f"http://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """A request through it."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the series of a name that have at least these labels."""
        lines = [line for line in httpx.get(self.metrics_url).text.splitlines() if line.startswith(name)]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line[len(name) : len(name) + 1] in ("{", " ")
            and all(f'{label}="{value}"' in line for label, value in labels.items())
        )

    def until(self, what: str, condition: Any) -> None:
        """Wait until a condition holds; fails after two minutes, with the end of the router's log."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, f"{what}: {self.log.read_text()[-2000:]}"
            time.sleep(0.1)

    def answers(self, path: str) -> bool:
        """Whether a GET succeeds."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=10).status_code == 200
        except httpx.TransportError:
            return False


def python_of(requirement: str) -> Path:
    """The Python that has a router; skips the test where it cannot be installed, which fails in CI."""
    try:
        return python_with(requirement)
    except Failure as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"{requirement} must run in CI: {error}", pytrace=False)
        pytest.skip(f"{requirement} cannot be installed: {str(error).splitlines()[0]}")


@contextmanager
def router(python: Path, module: str, flags: Sequence[str], log: Path) -> Iterator[Router]:
    """A router that listens on loopback; it ends with the block."""
    port, metrics_port = free_port(), free_port()
    command = [python, "-m", module, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port), *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    started = Router(process, port, metrics_port, log)
    try:
        started.until("it never became healthy", lambda: started.answers("/health"))
        yield started
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
