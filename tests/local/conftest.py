"""A real fleet: `ghostfleet up` as a process of its own, with a state folder of its own."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = (sys.executable, "-m", "ghostfleet_operator.cli.main")
PATIENCE = 80.0
"""Seconds after which something that should happen has failed; the machine may be busy."""


def until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first true answer of `holds`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := holds():
            return answer
        time.sleep(0.05)
    pytest.fail(f"within {seconds:g} s it never came about that {what}")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class FleetProcess:
    """`ghostfleet up` with one YAML file, which a test may edit."""

    def __init__(self, folder: Path, text: str) -> None:
        self.file = folder / "fleet.yaml"
        self.file.write_text(text)
        self.state = folder / "state"
        self.process: subprocess.Popen[str] | None = None
        self.lines: list[str] = []
        self._reader: threading.Thread | None = None

    def start(self, *flags: str, wait: bool = True) -> None:
        """Starts it; returns when all replicas are ready."""
        self.process = subprocess.Popen(
            [*COMMAND, "up", "-f", str(self.file), "--state", str(self.state), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=[self.process.stdout], daemon=True)
        self._reader.start()
        if wait:
            until(lambda: self.curl() or self.process.poll() is not None, "the fleet is ready")  # type: ignore[union-attr]
            assert self.curl(), self.lines

    def _read(self, output: Any) -> None:
        for line in output:
            self.lines.append(line.rstrip("\n"))

    def curl(self) -> list[str] | None:
        """The words of the command that the fleet printed to try it."""
        return next((shlex.split(line) for line in self.lines if line.startswith("curl ")), None)

    def until_said(self, pattern: str) -> str:
        """The first line that matches."""
        found = until(
            lambda: [line for line in self.lines if re.search(pattern, line)], f"it says {pattern!r}: {self.lines}"
        )
        return str(found[0])

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another sub-command on this fleet."""
        return subprocess.run(
            [*COMMAND, *words, "--state", str(self.state)], capture_output=True, text=True, timeout=90, check=False
        )

    def status(self) -> dict[str, Any]:
        """What `ghostfleet status -o json` prints."""
        found: dict[str, Any] = json.loads(self.run("status", "-o", "json").stdout)
        return found

    def replicas(self) -> dict[str, dict[str, Any]]:
        """What the fleet publishes about each replica, by name."""
        try:
            fleet = json.loads((self.state / "fleet.json").read_text())
        except OSError:
            return {}
        return {replica["name"]: replica for server in fleet["servers"] for replica in server["replicas"]}

    def settled(self, revision: int | None = None) -> bool:
        """Whether all is as wanted and, if a revision is given, that is what all servers should run."""
        fleet = json.loads((self.state / "fleet.json").read_text())
        return all(server["settled"] and revision in (None, server["revision"]) for server in fleet["servers"])

    def edit(self, old: str, new: str) -> None:
        """Replaces the file as an editor does: a new file takes the name of the old one."""
        text = self.file.read_text()
        assert old in text
        temporary = self.file.with_suffix(".new")
        temporary.write_text(text.replace(old, new))
        temporary.replace(self.file)

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@contextmanager
def fleets(folder: Path) -> Iterator[Callable[[str], FleetProcess]]:
    """Makes fleets from YAML texts; ends what is left running."""
    made: list[FleetProcess] = []

    def make(text: str) -> FleetProcess:
        own = folder / f"fleet-{len(made)}"
        own.mkdir()
        made.append(FleetProcess(own, text))
        return made[-1]

    yield make
    for fleet in made:
        if fleet.process is None or fleet.process.poll() is None:
            assert fleet.run("down", "--now").returncode == 0
        if fleet.process:
            fleet.process.wait(30)


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[[str], FleetProcess]]:
    """Makes fleets from YAML texts; ends what a test leaves running."""
    with fleets(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    """The fleet of `make up`, for tests that leave it as it is."""
    with fleets(tmp_path_factory.mktemp("shared")) as make:
        fleet = make((EXAMPLES / "quickstart.yaml").read_text())
        fleet.start()
        yield fleet


@pytest.fixture
def quickstart(make_fleet: Callable[[str], FleetProcess]) -> FleetProcess:
    """The fleet of `make up`, started."""
    fleet = make_fleet((EXAMPLES / "quickstart.yaml").read_text())
    fleet.start()
    return fleet


def server(name: str, **spec: Any) -> str:
    """A server as YAML (JSON is YAML)."""
    given = {"model": {"name": name}, "profile": {"simple": {"interTokenLatency": "20ms"}}, **spec}
    return json.dumps(
        {
            "apiVersion": "ghostfleet.dev/v1alpha1",
            "kind": "SimulatedModelServer",
            "metadata": {"name": name},
            "spec": given,
        }
    )
