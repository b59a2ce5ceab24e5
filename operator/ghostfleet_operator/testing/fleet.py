"""A fleet that a test starts, changes, asks, and stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from ghostfleet_operator.local.state import StateFolder
from ghostfleet_simulator.hosting.pack import KILLED

_COMMAND: Final = (sys.executable, "-P", "-m", "ghostfleet_operator.cli.main")
_PAUSE_SECONDS: Final = 0.02


class FleetError(AssertionError):
    """What was expected of a fleet did not come about."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One server of the fleet."""

    name: str
    """Name of the object, a dash, and a number from 0: `alpha-0`."""
    server: str
    """Name of the object."""
    model: str
    url: str
    """Base URL of its API, such as `http://127.0.0.2:8000`."""
    admin_url: str
    pid: int
    """Its process, which may be that of others, too."""
    ready: bool
    """Whether schedulers should send it requests."""
    starts: int
    """How often it was started."""
    _kill: Callable[[Replica], None] = field(repr=False, compare=False)

    def kill(self) -> None:
        """End it as a crash would, and no other one; the fleet starts it again."""
        self._kill(self)


@dataclass(frozen=True, slots=True)
class Served:
    """One answer of a server that has ended; a request for several (`n`, several prompts) has as many."""

    replica: str
    id: str
    """That of the response; of several answers each has a number before it (`1_chatcmpl-...`) or behind it."""
    model: str
    ended_at: float
    """Unix time."""
    prompt_tokens: int | None
    cached_tokens: int | None
    """Those of the prompt that were in the prefix cache."""
    completion_tokens: int | None
    found_running: int | None
    """Requests that the server was running when this one came: what a scheduler could have seen."""
    found_waiting: int | None
    found_kv_usage: float | None
    queue_seconds: float | None
    time_to_first_token_seconds: float | None
    latency_seconds: float | None
    finish_reason: str | None
    fault: str | None

    @property
    def server(self) -> str:
        """Name of the object that the replica belongs to."""
        return self.replica.rpartition("-")[0]


class Fleet:
    """A running fleet, as `ghostfleet up` starts it.

    Raises `FleetError`, with what the fleet said last, where it does not start or something does not come about.
    """

    def __init__(
        self, *sources: str | Path, folder: Path | None = None, timeout: float = 120, servers_per_process: int = 1
    ) -> None:
        """Start what `sources` describe and wait until every replica is ready.

        A source is the path of a YAML file or folder, or YAML itself. `folder` keeps state and logs, and is a temporary
        one unless given; `timeout` is that of every wait, in seconds. A large fleet is quicker to start and takes less
        memory with more `servers_per_process`.
        """
        self._made = tempfile.TemporaryDirectory(prefix="ghostfleet-") if folder is None else None
        self._folder = Path(self._made.name) if self._made else folder or Path()
        self._timeout = timeout
        self._written = 0
        self._state = StateFolder(self._folder / "state")
        self._log = self._folder / "fleet.log"
        self._client = httpx.Client(timeout=10, trust_env=False)
        self._forgotten: dict[tuple[str, int], int] = {}
        self._servers_per_process = servers_per_process
        files = [f"--file={self._file(source)}" for source in sources]
        room = f"--servers-per-process={servers_per_process}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                [*_COMMAND, "up", *files, f"--state={self._state.path}", "--drain=0", room],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._until(lambda: self._described().get("phase") == "running", "every replica is ready")
        except BaseException:
            self.close()
            raise

    # --- what there is ---------------------------------------------------------------------------

    @property
    def replicas(self) -> dict[str, Replica]:
        """The replicas by name."""
        return {
            one["name"]: Replica(
                one["name"],
                server["name"],
                server["model"],
                one["url"],
                one["adminUrl"],
                one["pid"],
                one["ready"] and not one["unready"],
                one["starts"],
                self._kill,
            )
            for server in self._described().get("servers", [])
            for one in server["replicas"]
            if not one["stopping"]
        }

    @property
    def pid(self) -> int:
        """The supervisor, from which all processes of the fleet descend."""
        return self._process.pid

    @property
    def urls(self) -> dict[str, str]:
        """Base URLs of their APIs by name, for schedulers that take a list."""
        return {name: replica.url for name, replica in self.replicas.items()}

    @property
    def endpoints_file(self) -> Path:
        """Replicas that should get requests, in the format of the endpoint picker's file discovery; kept up to date."""
        return self._state.endpoints_file

    # --- what happened ---------------------------------------------------------------------------

    def served(self) -> list[Served]:
        """The last answers of all replicas that have ended, at most 256 of each, in the order in which they did."""
        answers = [
            Served(
                name,
                one["id"],
                one["model"],
                one["endedAt"],
                one["promptTokens"],
                one["cachedTokens"],
                one["completionTokens"],
                one["foundRunning"],
                one["foundWaiting"],
                one["foundKvUsage"],
                one["queueSeconds"],
                one["timeToFirstTokenSeconds"],
                one["latencySeconds"],
                one["finishReason"],
                one["fault"],
            )
            for name, replica in self.replicas.items()
            for one in self._admin(replica, "requests")["requests"]
        ]
        return sorted(answers, key=lambda answer: answer.ended_at)

    def where(self, response_id: str) -> Served:
        """Which server gave the response with this id, and what it found there. Raises `LookupError`."""
        for answer in reversed(self.served()):
            rest = answer.id.partition(response_id)
            if rest[1] and (not rest[0] or rest[0].endswith("_")) and (not rest[2] or rest[2].startswith("-")):
                return answer
        raise LookupError(f"no replica remembers an answer {response_id!r}; each keeps its last 256")

    def taken(self) -> Counter[str]:
        """How many answers each replica has given, by its name, since the start or `forget`."""
        return Counter({name: count - self._forgotten.get((name, start), 0) for (name, start), count in self._counts()})

    def taken_by_server(self) -> Counter[str]:
        """The same, all replicas of an object together, by its name."""
        counts: Counter[str] = Counter()
        for name, count in self.taken().items():
            counts[name.rpartition("-")[0]] += count
        return counts

    def forget(self) -> None:
        """Count from now on."""
        self._forgotten = dict(self._counts())

    def until_idle(self) -> None:
        """Wait until no replica has a request that runs or waits."""
        self._until(
            lambda: (
                not any(
                    state["running"] or state["waiting"]
                    for state in (self._admin(replica, "state") for replica in self.replicas.values())
                )
            ),
            "no request is left",
        )

    # --- changes ---------------------------------------------------------------------------------

    def apply(self, source: str | Path) -> None:
        """Change or add objects, as `ghostfleet apply` does; returns when they are in force."""
        command = [*_COMMAND, "apply", f"--file={self._file(source)}", f"--state={self._state.path}"]
        done = subprocess.run(  # noqa: S603 - this very program
            [*command, f"--timeout={self._timeout:g}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise FleetError(done.stderr.strip())

    def until_ready(self) -> None:
        """Wait until every replica is there and ready, after one was killed say."""
        self._until(
            lambda: all(server["settled"] for server in self._described().get("servers", [])), "every replica is ready"
        )

    def close(self) -> None:
        """Stop the fleet and wait until no process of it is left."""
        self._client.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._state.end_leftovers()
        if self._made is not None:
            self._made.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------

    def _file(self, source: str | Path) -> Path:
        if isinstance(source, Path) or "\n" not in source:
            return Path(source)
        self._written += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"source-{self._written}.yaml"
        file.write_text(source, encoding="utf-8")
        return file

    def _kill(self, replica: Replica) -> None:
        if self._servers_per_process == 1:
            os.kill(replica.pid, signal.SIGKILL)
            return
        crash = {"failures": [{"type": "Crash", "after": "1ms", "exitCode": KILLED}]}
        headers = {"authorization": f"Bearer {self._state.token()}"}
        self._client.patch(f"{replica.admin_url}/admin/config", headers=headers, json=crash).raise_for_status()

    def _described(self) -> dict[str, Any]:
        fleet = self._state.fleet() or {}
        return fleet if fleet.get("pid") == self._process.pid else {}

    def _counts(self) -> list[tuple[tuple[str, int], int]]:
        return [
            ((name, replica.starts), self._admin(replica, "requests?limit=1")["total"])
            for name, replica in self.replicas.items()
        ]

    def _admin(self, replica: Replica, path: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._state.token()}"}
        try:
            answer = self._client.get(f"{replica.admin_url}/admin/{path}", headers=headers)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise FleetError(f"{replica.name} does not tell: {error!r}") from None
        told: dict[str, Any] = answer.json()
        return told

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + self._timeout
        while not holds():
            if self._process.poll() is not None:
                raise FleetError(f"the fleet has ended: {self._last_words()}")
            if time.monotonic() > end:
                raise FleetError(f"within {self._timeout:g} s it did not come about that {what}: {self._last_words()}")
            time.sleep(_PAUSE_SECONDS)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "; ".join(lines[-3:]) or "it said nothing"
