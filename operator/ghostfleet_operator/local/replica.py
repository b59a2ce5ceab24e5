"""One replica: a server that is started, watched, drained, and started again when it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from ghostfleet_operator.local.addresses import Addresses, NoAddress
from ghostfleet_operator.local.processes import Processes, Seat, State
from ghostfleet_operator.local.state import StateFolder, write_atomically
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.rollout import Ack, Target
from ghostfleet_simulator.document import Document

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_LIVED_WELL_SECONDS: Final = 30.0
_AFTER_DRAIN_SECONDS: Final = 10.0
_AFTER_KILL_SECONDS: Final = 5.0
_LARGEST_LOG: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all replicas of a fleet share."""

    folder: StateFolder
    token: str
    addresses: Addresses
    processes: Processes
    client: httpx.AsyncClient
    drain_seconds: int
    say: Callable[[str], None]
    """Tells a person something, one line."""
    changed: Callable[[], None]
    """Called when a replica is ready, or no longer."""


class Replica:
    """A server as `ghostfleet serve` starts it, with its document in a file, in a process that may host others.

    `start` begins to supervise and returns at once; `stop` drains and ends.
    """

    def __init__(self, plan: ServerPlan, index: int, surroundings: Surroundings) -> None:
        self.name = f"{plan.name}-{index}"
        self.namespace = plan.namespace
        self.plan = plan
        self.restarts = 0
        """How often it was started again because it had ended by itself."""
        self.starts = 0
        """How often it was started."""
        self.ack: Ack | None = None
        self.unready = ""
        """Why schedulers should send nothing to it though it serves: it was told so, or the failure `Unready`."""
        self.runs_restart_hash: str | None = None
        self._here = surroundings
        self.address = surroundings.addresses.take(len(plan.resolved.config.ports))
        self.ports: list[tuple[int | None, int]] = []
        """The ports that take requests, each with its rank where ranks have ports of their own."""
        self._folder = surroundings.folder.replica_folder(self.namespace, self.name)
        self._seat: Seat | None = None
        self._ready = asyncio.Event()
        self._stopping = False
        self._wanted_restart = False
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._written: Document | None = None

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._ready.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stopping

    @property
    def restarting(self) -> bool:
        """Whether it was told to restart and has not begun to."""
        return self._wanted_restart

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        return self._seat.pid if self._seat else None

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self._folder / "server.log"

    @property
    def target(self) -> Target:
        """Where its admin API is."""
        return Target(self.name, self.address.admin_url, self._here.token)

    @property
    def synced(self) -> bool:
        """Whether it said that it runs the document of its plan."""
        return self.ready and self.ack is not None and self.ack.runs(self.plan.document)

    def give(self, plan: ServerPlan) -> None:
        """Writes the document of `plan` to the file that the server starts from."""
        self.plan = plan
        if plan.document is not self._written:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            text = json.dumps(plan.document.to_json(), indent=1, ensure_ascii=False) + "\n"
            write_atomically(self._folder / "server.json", text, mode=0o600)
            self._written = plan.document

    def start(self) -> None:
        """Begins to supervise."""
        self.give(self.plan)
        self._task = asyncio.create_task(self._supervise(), name=f"supervise {self.name}")

    def restart(self) -> None:
        """Drains the server in the background; it starts from the plan last given when it has ended."""
        if not self._wanted_restart:
            self._wanted_restart = True
            self._hurry.set()
            self._set_ready(False)
            self._ending = asyncio.create_task(self._end_server(), name=f"drain {self.name}")

    async def stop(self) -> None:
        """Drains and ends the server, and gives the address back."""
        self._stopping = True
        self._hurry.set()
        self._set_ready(False)
        await self._end_server()
        if self._task:
            await self._task
        self._here.addresses.give_back(self.address)

    def give_up(self) -> None:
        """Starts no other process: all of them end at once."""
        self._stopping = True
        self._hurry.set()

    def _set_ready(self, ready: bool) -> None:
        if ready == self._ready.is_set():
            return
        if ready:
            self._ready.set()
        else:
            self._ready.clear()
            self.ack = None
            self.unready = ""
        self._here.changed()

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        while not self.stopping:
            self._wanted_restart = False
            self._hurry.clear()
            began = loop.time()
            ending = await self._run_once()
            self._set_ready(False)
            if self.stopping or self._wanted_restart:
                continue
            if loop.time() - began > _LIVED_WELL_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            self.restarts += 1
            self._here.say(f"{self.name} {ending}; starting it again in {pause:.1f} s (its log: {self.log_file})")
            self._here.changed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self) -> str:
        """Runs the server to its end; how it ended, in words."""
        config = self.plan.resolved.config
        count = len(config.ports)
        if not self.address.is_free(count):
            try:
                other = self._here.addresses.take(count)
            except NoAddress as error:
                return f"cannot start: {error}"
            self._here.say(f"{self.address.host} is taken by another program; {self.name} moves to {other.url}")
            self._here.addresses.give_back(self.address)
            self.address = other
        numbered = config.data_parallel_port_per_rank
        self.ports = [(rank if numbered else None, port) for rank, port in enumerate(self.address.ports(count))]
        self.runs_restart_hash = self.plan.restart_hash
        self.starts += 1
        seat = self._seat = self._start()
        self._here.changed()
        if self.stopping or self._wanted_restart:  # asked for while it was being started
            seat.terminate()
        loop = asyncio.get_running_loop()
        began = loop.time()
        ended = asyncio.create_task(seat.wait())
        ready = asyncio.create_task(seat.ready.wait())
        await asyncio.wait([ended, ready], return_when=asyncio.FIRST_COMPLETED)
        answered = ready.done() and not self.stopping
        ready.cancel()
        if answered:
            self._set_ready(True)
            self._here.say(f"{self.name} is ready at {self.address.url} ({loop.time() - began:.1f} s)")
        code = await ended
        ending = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return ending if answered else f"{ending} before it was ready{self._last_words()}"

    def _last_words(self) -> str:
        """The last line of the log, which says why a process did not start."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(0, self.log_file.stat().st_size - 2000))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f" ({lines[-1][:300]})" if lines else ""

    def _start(self) -> Seat:
        listen = self.address
        log = self.log_file
        if log.exists() and log.stat().st_size > _LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
        arguments = [
            *("--config", str(self._folder / "server.json")),
            *("--host", listen.host, "--port", str(listen.port), "--admin-port", str(listen.admin_port)),
            *("--kv-events-port-offset", str(listen.kv_events_offset)),
            *("--admin-token-file", str(self._here.folder.token_file)),
            *("--shutdown-timeout", str(self._here.drain_seconds)),
        ]
        pod = {"POD_NAME": self.name, "POD_NAMESPACE": self.namespace}
        return self._here.processes.host(f"{self.namespace}/{self.name}", arguments, pod, log, self._changed)

    def _changed(self, state: State) -> None:
        """The server says which document is in force, and whether it should get traffic."""
        document = self.plan.document
        if self.ready and state.revision == document.revision and state.live_hash != document.hash:
            self._here.say(f"{self.name} runs revision {state.revision} with another hash; it is put right")
        self.ack = Ack(self.target, state.revision, state.live_hash, None)
        self.unready = state.unready
        self._here.changed()

    async def _end_server(self) -> None:
        seat = self._seat
        if seat is None or seat.returncode is not None:
            return
        seat.terminate()
        try:
            await asyncio.wait_for(seat.wait(), self._here.drain_seconds + _AFTER_DRAIN_SECONDS)
        except TimeoutError:
            self._here.say(f"{self.name} did not end by itself and is killed")
            seat.kill()
        try:
            await asyncio.wait_for(seat.wait(), _AFTER_KILL_SECONDS)
        except TimeoutError:
            self._here.say(f"the process of {self.name} does not answer and is killed")
            seat.kill_process()
        await seat.wait()
