"""One replica: a process that is started, watched, drained, and started again when it ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from ghostfleet_operator.local.addresses import Addresses, NoAddress
from ghostfleet_operator.local.state import StateFolder, write_atomically
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.rollout import Ack, Target

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_LIVED_WELL_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_AFTER_DRAIN_SECONDS: Final = 10.0
_LARGEST_LOG: Final = 16 * 2**20
_SETTINGS: Final = (
    *("GHOSTFLEET_", "PYTHONHASHSEED", "VLLM_SERVER_DEV_MODE", "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES"),
    *("POD_IP", "POD_NAME", "POD_NAMESPACE", "VLLM_HOST_IP"),
)
"""Beginnings of the variables that `ghostfleet serve` takes settings from."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all replicas of a fleet share."""

    folder: StateFolder
    token: str
    addresses: Addresses
    client: httpx.AsyncClient
    drain_seconds: int
    say: Callable[[str], None]
    """Tells a person something, one line."""
    changed: Callable[[], None]
    """Called when a replica is ready, or no longer."""


class Replica:
    """A process of `ghostfleet serve` with its document in a file.

    `start` begins to supervise and returns at once; `stop` drains and ends.
    """

    def __init__(self, plan: ServerPlan, index: int, surroundings: Surroundings) -> None:
        self.name = f"{plan.name}-{index}"
        self.namespace = plan.namespace
        self.plan = plan
        self.restarts = 0
        self.ack: Ack | None = None
        self.runs_restart_hash: str | None = None
        self._here = surroundings
        self.address = surroundings.addresses.take(len(plan.resolved.config.ports))
        self.ports: list[tuple[int | None, int]] = []
        """The ports that take requests, each with its rank where ranks have ports of their own."""
        self._folder = surroundings.folder.replica_folder(self.namespace, self.name)
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._stopping = False
        self._wanted_restart = False
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._written = ""

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
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def log_file(self) -> Path:
        """What the process says."""
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
        """Writes the document of `plan` to the file that the process follows and starts from."""
        self.plan = plan
        text = json.dumps(plan.document.to_json(), indent=1, ensure_ascii=False) + "\n"
        if text != self._written:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._folder / "server.json", text, mode=0o600)
            self._written = text

    def start(self) -> None:
        """Begins to supervise."""
        self.give(self.plan)
        self._task = asyncio.create_task(self._supervise(), name=f"supervise {self.name}")

    def restart(self) -> None:
        """Drains the process in the background; another one starts from the plan last given when it has ended."""
        if not self._wanted_restart:
            self._wanted_restart = True
            self._hurry.set()
            self._set_ready(False)
            self._ending = asyncio.create_task(self._end_process(), name=f"drain {self.name}")

    async def stop(self) -> None:
        """Drains and ends the process, and gives the address back."""
        self._stopping = True
        self._hurry.set()
        self._set_ready(False)
        await self._end_process()
        if self._task:
            await self._task
        self._here.addresses.give_back(self.address)

    def kill(self) -> None:
        """Ends the process at once."""
        self._stopping = True
        self._hurry.set()
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _set_ready(self, ready: bool) -> None:
        if ready == self._ready.is_set():
            return
        if ready:
            self._ready.set()
        else:
            self._ready.clear()
            self.ack = None
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
        """Runs one process to its end; how it ended, in words."""
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
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            return f"cannot start: {error.strerror or error}"
        self._here.changed()
        if self.stopping or self._wanted_restart:  # asked for while the process was being made
            process.terminate()
        loop = asyncio.get_running_loop()
        began = loop.time()
        answered = await self._answers(process)
        if answered:
            self._set_ready(True)
            self._here.say(f"{self.name} is ready at {self.address.url} ({loop.time() - began:.1f} s)")
        code = await process.wait()
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

    async def _spawn(self) -> asyncio.subprocess.Process:
        listen = self.address
        log = self.log_file
        if log.exists() and log.stat().st_size > _LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
        command = [
            *(sys.executable, "-P", "-m", "ghostfleet_operator.cli.child", "serve"),
            *("--config", str(self._folder / "server.json")),
            *("--host", listen.host, "--port", str(listen.port), "--admin-port", str(listen.admin_port)),
            *("--kv-events-port-offset", str(listen.kv_events_offset)),
            *("--admin-token-file", str(self._here.folder.token_file)),
            *("--shutdown-timeout", str(self._here.drain_seconds)),
        ]
        # Variables of the person's shell would override what the objects say.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
        environment |= {"POD_NAME": self.name, "POD_NAMESPACE": self.namespace}
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is the supervisor's; it drains
                env=environment,
            )

    async def _answers(self, process: asyncio.subprocess.Process) -> bool:
        """Waits until the process is ready; False if it ended first."""
        url = f"{self.address.admin_url}/admin/ready"
        while process.returncode is None and not self.stopping:
            with contextlib.suppress(httpx.HTTPError):
                answer = await self._here.client.get(url, timeout=2.0)
                if answer.status_code == httpx.codes.OK:
                    return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _end_process(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._here.drain_seconds + _AFTER_DRAIN_SECONDS)
        except TimeoutError:
            self._here.say(f"{self.name} did not end by itself and is killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
