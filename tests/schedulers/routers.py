"""Routers from PyPI, each in a virtual environment of its own under the cache, as processes in front of servers.

`python -m tests.schedulers.routers` installs them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest
from e2e import pypi, shell
from tests.served import Served, free_port

VLLM_ROUTER: Final = "0.1.17"
SGLANG_ROUTER: Final = "0.3.2"


def installed(name: str, version: str) -> Path:
    """The program, installed at first use. Raises Failure."""
    return pypi.programs(name, version) / name


def required(name: str, version: str) -> Path:
    """The program; where it cannot be installed the test is skipped, and in CI it fails."""
    try:
        return installed(name, version)
    except shell.Failure as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"{name} must run in CI: {error}", pytrace=False)
        pytest.skip(f"{name} cannot be installed: {str(error).splitlines()[0]}")


@dataclass(frozen=True)
class Router:
    """A router that serves."""

    port: int
    prometheus_port: int
    log: Path

    @property
    def url(self) -> str:
        """Where it takes requests."""
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str = "/v1/completions", **body: object) -> httpx.Response:
        """Send a request by way of it."""
        return httpx.post(f"{self.url}{path}", json={"model": "m", **body}, timeout=60)

    def value(self, series: str, **labels: str) -> float:
        """The sum of a family's series with these labels."""
        lines = httpx.get(f"http://127.0.0.1:{self.prometheus_port}/metrics").text.splitlines()
        named = [line for line in lines if line.startswith(series) and line[len(series)] in " {"]
        wanted = [line for line in named if all(f'{name}="{value}"' in line for name, value in labels.items())]
        return sum(float(line.rpartition(" ")[2]) for line in wanted)


@contextmanager
def routing(program: Path, log: Path, *flags: str, command: tuple[str, ...] = ()) -> Iterator[Router]:
    """A router with these flags, bound to the loopback, once it is ready for requests; `command` goes before them."""
    router = Router(free_port(), free_port(), log)
    bound = ("--host", "127.0.0.1", "--port", str(router.port), "--prometheus-host", "127.0.0.1")
    line = [program, *command, *bound, "--prometheus-port", str(router.prometheus_port), "--log-level", "info", *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(line, stdout=out, stderr=out)
    try:
        until(lambda: process.poll() is not None or _ready(router.url), router)
        assert process.poll() is None, log.read_text()
        yield router
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def until(condition: Callable[[], bool], router: Router) -> None:
    """Wait for a condition, for four minutes at most: a router is slow to start on a busy machine."""
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, router.log.read_text()[-3000:]
        time.sleep(0.1)


def answered(server: Served) -> int:
    """Requests that a server has answered."""
    return int(httpx.get(f"{server.admin_url}/admin/requests").json()["total"])


def inject(server: Served, *failures: dict[str, object]) -> None:
    """Have a server fail in these ways from now on; without any it is well."""
    answer = httpx.patch(f"{server.admin_url}/admin/config", json={"failures": list(failures)})
    assert answer.status_code == 200, answer.text


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    installed("vllm-router", VLLM_ROUTER)
    installed("sglang-router", SGLANG_ROUTER)
