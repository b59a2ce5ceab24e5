"""`ghostfleet up`: runs a fleet from files until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from ghostfleet_operator.local import applied
from ghostfleet_operator.local.addresses import Addresses
from ghostfleet_operator.local.fleet import Fleet
from ghostfleet_operator.local.objects import read
from ghostfleet_operator.local.processes import Processes
from ghostfleet_operator.local.push import admin_client
from ghostfleet_operator.local.replica import Surroundings
from ghostfleet_operator.local.rows import Row, rows
from ghostfleet_operator.local.state import StateFolder
from ghostfleet_operator.local.watch import changes
from ghostfleet_operator.resolve import Resolved
from ghostfleet_simulator.problems import InvalidInput

RELOAD_SIGNAL: Final = signal.SIGUSR1
"""Has a supervisor read its files and what was applied again."""
_TABLE_SECONDS: Final = 1.0
_TABLE_SHARE: Final = 0.1
"""Of the time that passes, at most this much is spent on the table: a thousand servers are not asked every second."""
_GONE_SECONDS: Final = 0.3


class Output(Protocol):
    """What a supervisor shows to a person."""

    shows_rows: bool

    def say(self, text: str) -> None:
        """One line about something that happened."""

    def show(self, rows: Sequence[Row]) -> None:
        """All replicas now."""

    def ready(self, fleet: Mapping[str, Any]) -> None:
        """All that is wanted runs, for the first time; `fleet` is what is published."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `ghostfleet up` was told."""

    files: tuple[Path, ...]
    folder: StateFolder
    drain_seconds: int
    servers_per_process: int = 1


class Supervisor:
    """One run of a fleet; the folder must be held."""

    def __init__(self, plan: Plan, output: Output) -> None:
        self._plan = plan
        self._output = output
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._interrupts = 0

    async def run(self) -> None:
        """Runs until told to stop; raises `InvalidInput` if the files are not usable at the start."""
        first = self._load()
        folder = self._plan.folder
        left = folder.end_leftovers()
        if left:
            self._output.say(f"ended {left} processes that an earlier supervisor left behind")
        folder.processes_log.unlink(missing_ok=True)
        folder.applied_file.unlink(missing_ok=True)
        async with admin_client() as client:
            change = asyncio.Event()
            surroundings = Surroundings(
                folder=folder,
                token=folder.new_token(),
                addresses=Addresses(),
                processes=Processes(self._plan.servers_per_process, folder, self._output.say),
                client=client,
                drain_seconds=self._plan.drain_seconds,
                say=self._output.say,
                changed=change.set,
            )
            fleet = Fleet(surroundings, change)
            fleet.facts = {
                "pid": os.getpid(),
                "files": [str(path.absolute()) for path in self._plan.files],
                "serversPerProcess": self._plan.servers_per_process,
                "phase": "starting",
                "problems": [],
                "loaded": 0,
            }
            self._take_signals(fleet)
            self._want(fleet, first)
            try:
                async with _background(
                    fleet.watch_changes(),
                    self._follow_files(),
                    self._reload_on_demand(fleet),
                    self._show(fleet, surroundings),
                    self._greet(fleet),
                ):
                    await self._stop.wait()
            finally:
                fleet.facts["phase"] = "stopping"
                fleet.publish()
                if fleet.replicas:
                    self._output.say("stopping; requests that run may end (Ctrl-C again stops at once)")
                await fleet.stop()
        folder.forget()

    def _load(self) -> tuple[Resolved, ...]:
        objects = read(self._plan.files)
        if not any(key.kind == "SimulatedModelServer" for key in objects.sources):
            self._output.say("there is no SimulatedModelServer in these files")
        for line in objects.skipped:
            self._output.say(line)
        return applied.over(self._plan.folder.applied_file, objects).resolved()

    def _want(self, fleet: Fleet, resolved: tuple[Resolved, ...]) -> None:
        for line in fleet.want(resolved):
            self._output.say(line)
        fleet.facts["problems"] = []
        fleet.facts["loaded"] += 1
        fleet.publish()

    def _take_signals(self, fleet: Fleet) -> None:
        def stop() -> None:
            self._interrupts += 1
            self._stop.set()
            if self._interrupts > 1:
                fleet.kill()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(RELOAD_SIGNAL, self._reload.set)

    async def _follow_files(self) -> None:
        async for _ in changes(self._plan.files, self._stop):
            if not all(path.exists() for path in self._plan.files):
                await asyncio.sleep(_GONE_SECONDS)  # an editor moves the old file away before it writes the new one
            self._reload.set()

    async def _reload_on_demand(self, fleet: Fleet) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                resolved = self._load()
            except InvalidInput as error:
                problems = [str(problem) for problem in error.problems]
                if problems != fleet.facts["problems"]:
                    for problem in problems:
                        self._output.say(problem)
                    self._output.say("nothing is changed until this is put right; what runs goes on")
                fleet.facts["problems"] = problems
                fleet.facts["loaded"] += 1
                fleet.publish()
            else:
                if fleet.facts["problems"]:
                    self._output.say("the files are valid again")
                self._want(fleet, resolved)

    async def _show(self, fleet: Fleet, surroundings: Surroundings) -> None:
        loop = asyncio.get_running_loop()
        while self._output.shows_rows:
            began = loop.time()
            self._output.show(await rows(fleet.described(), surroundings.token, surroundings.client))
            await asyncio.sleep(max(_TABLE_SECONDS, (loop.time() - began) / _TABLE_SHARE))

    async def _greet(self, fleet: Fleet) -> None:
        await fleet.first_settled.wait()
        fleet.facts["phase"] = "running"
        fleet.publish()
        self._output.ready(fleet.described())


def curl_line(fleet: Mapping[str, Any]) -> str | None:
    """A command that streams an answer from the first server that runs."""
    for server in fleet["servers"]:
        for replica in server["replicas"]:
            body = {"model": server["model"], "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
            data = json.dumps(body, separators=(",", ":"), ensure_ascii=False).replace("'", "'\\''")
            return f"curl -N {replica['url']}/v1/chat/completions -H 'content-type: application/json' -d '{data}'"
    return None


@asynccontextmanager
async def _background(*jobs: Any) -> AsyncIterator[None]:
    """Runs coroutines beside the body and cancels them at its end; the failure of one is raised at once."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
