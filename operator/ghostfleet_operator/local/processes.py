"""The processes that host the servers of a fleet: each has room for some, and is there while it has one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ghostfleet_operator.local.state import StateFolder

_PACK: Final = "ghostfleet_simulator.hosting.pack"
_LONGEST_LINE: Final = 2**20
_NAMED: Final = 3
"""How many servers are named when a process has ended that hosted more."""
_SETTINGS: Final = (
    *("GHOSTFLEET_", "PYTHONHASHSEED", "VLLM_SERVER_DEV_MODE", "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES"),
    *("POD_IP", "POD_NAME", "POD_NAMESPACE", "VLLM_HOST_IP"),
)
"""Beginnings of the variables that a server takes settings from."""
_OPEN_FILES: Final = (50, 8)
"""Of a process, and of each of its servers: two listeners, a timer, and some connections to it."""


def open_files(servers: int) -> int:
    """How many open files a process with so many servers should be allowed; every stream is one more."""
    process, server = _OPEN_FILES
    return process + server * servers


@dataclass(frozen=True, slots=True)
class State:
    """What a server tells of itself."""

    revision: int
    live_hash: str
    unready: str
    """Why it should get no traffic; empty where it should."""


class Seat:
    """The place of one server in a process, from before its start to its end."""

    def __init__(self, pack: Pack, name: str, changed: Callable[[State], None]) -> None:
        """`changed` is told of each document that comes into force, and whenever traffic is to stay away or come."""
        self._pack = pack
        self.name = name
        self.changed = changed
        self.returncode: int | None = None
        """How it ended, as for a process."""
        self.ready = asyncio.Event()
        """Set when it has started."""
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process, while it has one and has not ended."""
        return self._pack.pid if self.returncode is None else None

    @property
    def alone(self) -> bool:
        """Whether no process ever hosts another server beside it."""
        return self._pack.room == 1

    def terminate(self) -> None:
        """Have it drain and end."""
        self._pack.send({"stop": self.name})

    def kill(self) -> None:
        """Have it end at once, and no other one."""
        self._pack.send({"kill": self.name})

    def kill_process(self) -> None:
        """End the process at once, with whatever else it hosts."""
        self._pack.kill()

    async def wait(self) -> int:
        """Its exit code, when it has ended; minus the number of a signal that ended its process."""
        await self._ended.wait()
        return self.returncode or 0

    def end(self, code: int) -> None:
        """Said when it has ended."""
        if self.returncode is None:
            self.returncode = code
            self._ended.set()


class Pack:
    """One process. What is sent before it runs is sent when it does."""

    def __init__(self, room: int, folder: StateFolder, say: Callable[[str], None]) -> None:
        self.room = room
        """Most servers that it hosts at a time."""
        self.seats: dict[str, Seat] = {}
        self.open = True
        """Whether it takes more servers."""
        self._folder = folder
        self._say = say
        self._process: Process | None = None
        self._backlog: list[bytes] = []
        self._task = asyncio.create_task(self._run(), name="process")

    @property
    def pid(self) -> int | None:
        """Process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def send(self, line: Mapping[str, Any]) -> None:
        """Tell the process something."""
        text = json.dumps(line).encode() + b"\n"
        if self._process is None:
            self._backlog.append(text)
        elif self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(text)

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _run(self) -> None:
        code = 1
        try:
            code = await self._host()
        except OSError as error:
            self._say(f"cannot start a process: {error.strerror or error}")
        finally:
            self.open = False
            seats, self.seats = list(self.seats.values()), {}
            if len(seats) > 1 or (seats and self.room > 1):
                names = ", ".join(seat.name for seat in seats[:_NAMED]) + (", ..." if len(seats) > _NAMED else "")
                was = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
                self._say(f"a process with {len(seats)} servers {was}: {names}")
            for seat in seats:
                seat.end(code)

    async def _host(self) -> int:
        process = self._process = await self._spawn()
        assert process.stdin is not None  # noqa: S101 - for the type checker; both are pipes
        assert process.stdout is not None  # noqa: S101 - likewise
        process.stdin.write(b"".join(self._backlog))
        last: tuple[Seat, int] | None = None
        with contextlib.suppress(ConnectionError, ValueError):
            async for line in process.stdout:
                if ended := self._take(json.loads(line)):
                    if self.seats:
                        ended[0].end(ended[1])
                    else:
                        # The last one has ended when its process has.
                        last, self.open = ended, False
                        process.stdin.close()
        code = await process.wait()
        if last is not None:
            last[0].end(last[1])
        return code

    def _take(self, told: Mapping[str, Any]) -> tuple[Seat, int] | None:
        """What the process tells; a server that has ended, and its exit code."""
        match told:
            case {"ready": name, **state} if seat := self.seats.get(name):
                seat.changed(_state(state))
                seat.ready.set()
            case {"changed": name, **state} if seat := self.seats.get(name):
                seat.changed(_state(state))
            case {"ended": name, "code": code} if seat := self.seats.pop(name, None):
                return seat, code
        return None

    async def _spawn(self) -> Process:
        # Variables of the person's shell would override what the objects say.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
        with self._folder.processes_log.open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", _PACK, str(self._folder.path)),
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C in the terminal is the supervisor's; it drains
                env=environment,
                limit=_LONGEST_LINE,
            )


def _state(told: Mapping[str, Any]) -> State:
    return State(told["revision"], told["hash"], told["unready"])


class Processes:
    """All processes of a fleet."""

    def __init__(self, room: int, folder: StateFolder, say: Callable[[str], None]) -> None:
        """`room`: how many servers share a process."""
        self._room = room
        self._folder = folder
        self._say = say
        self._packs: list[Pack] = []

    def host(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        changed: Callable[[State], None],
    ) -> Seat:
        """Start a server, `arguments` being those of `ghostfleet serve`, where there is room or in another process."""
        self._packs = [pack for pack in self._packs if pack.open]
        pack = next((pack for pack in self._packs if len(pack.seats) < self._room), None)
        if pack is None:
            pack = Pack(self._room, self._folder, self._say)
            self._packs.append(pack)
        seat = pack.seats[name] = Seat(pack, name, changed)
        pack.send({"start": name, "arguments": arguments, "environment": environment, "log": str(log)})
        return seat

    def kill(self) -> None:
        """End all of them at once."""
        for pack in self._packs:
            pack.kill()
