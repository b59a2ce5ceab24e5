"""A real `ghostfleet serve` process per configuration, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

GHOSTFLEET = Path(sys.executable).with_name("ghostfleet")


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    log: Path

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where the admin API is."""
        return f"http://127.0.0.1:{self.admin_port}"

    def state(self) -> dict[str, Any]:
        """What the admin API tells of it."""
        state: dict[str, Any] = httpx.get(f"{self.admin_url}/admin/state").json()
        return state

    def until(self, **expected: Any) -> dict[str, Any]:
        """The state once it shows what is expected; fails after 10 s."""
        end = time.monotonic() + 10
        while True:
            state = self.state()
            if all(state[key] == value for key, value in expected.items()):
                return state
            assert time.monotonic() < end, f"{state} never showed {expected}"
            time.sleep(0.02)


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers with the flags given; they end with the module."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> Served:
        port, admin_port = free_port(), free_port()
        log = tmp_path_factory.mktemp("serve") / "log"
        command = [GHOSTFLEET, "serve", "--model", "org/model", "--served-model-name", "m", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--admin-port", str(admin_port), *flags]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GHOSTFLEET_")}
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        started.append(process)
        served = Served(process, port, admin_port, log)
        end = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"{served.admin_url}/admin/ready").status_code == 200:
                    return served
            except httpx.TransportError:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(20)
