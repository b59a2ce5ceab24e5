"""Routers from PyPI, each in a virtual environment of its own under the cache, as processes in front of servers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from e2e import pypi
from tests.served import free_port

VLLM_ROUTER: Final = "0.1.17"
SGLANG_ROUTER: Final = "0.3.2"


def installed(name: str = "vllm-router", version: str = VLLM_ROUTER) -> Path:
    """The program, installed at first use. Raises Failure."""
    return pypi.programs(name, version) / name


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
        end = time.monotonic() + 120
        while not _ready(router.url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield router
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False
