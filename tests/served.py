"""Real `ghostfleet serve` processes on loopback, for tests that talk to them over HTTP."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

GHOSTFLEET = Path(sys.executable).with_name("ghostfleet")


def free_port() -> int:
    """A port that nobody listens on at the moment, and that no connection of another test is given meanwhile."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of as many ports in a row that nobody listens on; from below those that the system gives out itself."""
    while True:
        first = random.SystemRandom().randrange(15_000, 32_000 - count)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


def clean_environment() -> dict[str, str]:
    """The environment without settings of ours."""
    return {key: value for key, value in os.environ.items() if not key.startswith("GHOSTFLEET_")}


def children_of(pid: int) -> set[int]:
    """The processes that a process has started, whichever of its threads did."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return {int(child) for found in lists for child in found.split()}


@dataclass(frozen=True)
class Server:
    """Where a running server listens."""

    port: int
    admin_port: int

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
        """The state once it shows what is expected; fails after 60 s."""
        end = time.monotonic() + 60
        while True:
            state = self.state()
            if all(state[key] == value for key, value in expected.items()):
                return state
            assert time.monotonic() < end, f"{state} never showed {expected}"
            time.sleep(0.02)


@dataclass(frozen=True)
class Served(Server):
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def resident_bytes(self, *, family: bool = False) -> int:
        """Memory of the process, or of all its children too; pages that it shares with others included."""
        pid = self.process.pid
        processes = {pid} | (children_of(pid) if family else set())
        pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in processes)
        return pages * os.sysconf("SC_PAGE_SIZE")


Serve = Callable[..., Served]


@contextmanager
def servers(new_folder: Callable[[str], Path]) -> Iterator[Serve]:
    """Gives what starts a server with the flags given, and waits until it is ready; all end with the block."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str, environment: Mapping[str, str] | None = None) -> Served:
        port, admin_port = free_port(), free_port()
        log = new_folder("serve") / "log"
        command = [str(GHOSTFLEET), "serve", "--model", "org/model", "--served-model-name", "m", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--admin-port", str(admin_port), *flags]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env={**clean_environment(), **(environment or {})}
            )
        started.append(process)
        served = Served(port, admin_port, process, log)
        end = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{served.admin_url}/admin/ready").status_code == 200:
                    return served
            except httpx.TransportError:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)
