"""A process that hosts servers for a supervisor: `python -m ghostfleet_simulator.hosting.pack WHOSE`.

It is told by lines of JSON on standard input and tells by such lines on standard output:

    {"start": NAME, "arguments": [...], "environment": {...}, "log": FILE}    as `ghostfleet serve` takes them
    {"stop": NAME}                                          drain and end
    {"kill": NAME}                                          end at once
    {"ready": NAME, "revision": 3, "hash": "sha256:...", "unready": ""}    it has started
    {"changed": NAME, "revision": 4, "hash": ..., "unready": "Unready"}
                        another document, or a patch, is in force; or why it should get no traffic has changed
    {"ended": NAME, "code": 0}                              the exit code it would have had alone

Servers come and go; the process stays until its standard input ends, as it does with the supervisor however that ends.
`WHOSE` means nothing to it: it tells in a list of processes whose it is.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ghostfleet_simulator.config import LogFormat, LogLevel, ModelSettings
from ghostfleet_simulator.flags import LoadedConfig, load
from ghostfleet_simulator.hosting.hosted import CannotListen, Hosted
from ghostfleet_simulator.hosting.process import on_stop_signal, return_large_blocks, spare_collector
from ghostfleet_simulator.logs import LogFiles, set_up
from ghostfleet_simulator.problems import InvalidInput
from ghostfleet_simulator.runtime.replica import Replica
from ghostfleet_simulator.runtime.server import STARTING
from ghostfleet_simulator.text.tokenizer import Tokenizer, tokenizer_of

if TYPE_CHECKING:
    import zmq  # loads only where KV events are published

KILLED: Final = 137
"""Exit code of a server that was killed, as a shell tells it of a process."""
_INVALID, _FAILED = 2, 1
_QUIET_S: Final = 1.0
"""How long no server may have come or gone before the garbage collector is told to leave all alone."""
_READINESS_S: Final = 0.1
"""How often readiness is looked at while it goes by the clock."""
_LONGEST_LINE: Final = 2**24
_MOST_SOCKETS: Final = 65_536
_log = logging.getLogger("ghostfleet.serve")


@dataclass(slots=True)
class _Shared:
    """What the servers of the process need only once."""

    tokenizers: dict[tuple[str | None, str | None], Tokenizer] = field(default_factory=dict)
    configs: dict[tuple[bytes, tuple[str, ...]], LoadedConfig] = field(default_factory=dict)
    context: zmq.Context[zmq.Socket[bytes]] | None = None

    def tokenizer(self, model: ModelSettings) -> Tokenizer:
        """The tokenizer of a model."""
        key = (model.tokenizer, model.chat_template)
        if key not in self.tokenizers:
            self.tokenizers[key] = tokenizer_of(model)
        return self.tokenizers[key]

    def loaded(self, arguments: Sequence[str]) -> LoadedConfig:
        """What arguments come to; servers that differ in their address and their file's name have all else in common.

        Raises `InvalidInput`.
        """
        *others, config, host = _split(arguments)
        key = (Path(config).read_bytes() if config else b"", tuple(others))
        if key not in self.configs:
            self.configs.clear()  # a fleet has few configurations, and most servers of one start together
            self.configs[key] = load(arguments, os.environ)
        loaded = self.configs[key]
        listen = loaded.config.listen.model_copy(update={"host": host})
        return replace(loaded, config=loaded.config.model_copy(update={"listen": listen}))

    def kv_context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The ZeroMQ context, whose thread sends the KV events of all servers."""
        import zmq  # noqa: PLC0415 - loads only where it is needed

        if self.context is None:
            self.context = zmq.Context()
            self.context.set(zmq.MAX_SOCKETS, _MOST_SOCKETS)
        return self.context


class Pack:
    """The servers of a process."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """`tell` sends a line to the supervisor."""
        self._tell = tell
        self._shared = _Shared()
        self._hosted: dict[str, Hosted] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._told: dict[str, str] = {}
        """What a server was told before it was there."""
        self._turn = asyncio.Lock()
        self._quiet: asyncio.TimerHandle | None = None

    def take(self, line: Mapping[str, Any]) -> None:
        """Do what a line says."""
        match line:
            case {"start": name, "arguments": arguments, "environment": environment, "log": log}:
                self._tasks[name] = asyncio.create_task(self._host(name, arguments, environment, Path(log)))
            case {"stop": name} | {"kill": name} if name in self._tasks:
                self._told[name] = "stop" if "stop" in line else "kill"
                self._obey(name)

    async def end(self) -> None:
        """Stop all servers; returns when they have ended."""
        for name in self._tasks:
            self.take({"stop": name})
        while self._tasks:
            await asyncio.wait(self._tasks.values())
        if self._shared.context is not None:
            self._shared.context.term()

    async def _host(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        LogFiles.use(log)
        code = _FAILED
        try:
            async with self._turn:  # one after the other, and who is there already has a turn in between
                await asyncio.sleep(0)
                hosted = self._hosted[name] = self._made(arguments, environment)
            following = asyncio.create_task(self._follow(name, hosted))
            self._obey(name)
            self._settle()
            code = await hosted.run()
            following.cancel()
        except InvalidInput as error:
            code = _INVALID
            for problem in error.problems:
                _log.error("%s", problem)
        except CannotListen as error:
            _log.error("%s", error)
        except Exception as error:  # noqa: BLE001 - one server must not end the others
            _log.error("ended by a mistake in ghostfleet: %r", error)
        finally:
            self._hosted.pop(name, None)
            self._told.pop(name, None)
            del self._tasks[name]
            self._settle()
            self._tell({"ended": name, "code": code})

    def _made(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Hosted:
        loaded = self._shared.loaded(arguments)
        config = loaded.config
        for warning in loaded.warnings:
            _log.warning(warning)
        return Hosted(
            config,
            loaded.document,
            replace(loaded.options, config_path=None),  # the supervisor pushes what the file says
            tokenizer=self._shared.tokenizer(config.model),
            kv_context=self._shared.kv_context() if config.kv_events.enabled else None,
            environ={**os.environ, **environment},
            shares_process=True,
        )

    async def _follow(self, name: str, hosted: Hosted) -> None:
        """Tells what a server is from its start on; one whose state does not go by the clock takes no time."""
        replica, changed = hosted.replica, asyncio.Event()
        replica.servers[-1].changed = changed.set
        await hosted.listening.wait()
        while replica.unready == STARTING:  # noqa: ASYNC110 - it goes by the clock
            await asyncio.sleep(_READINESS_S)
        event, told = "ready", None
        while True:
            changed.clear()
            if (state := _state(replica)) != told:
                self._tell({event: name, **state})
                event, told = "changed", state
            await (asyncio.sleep(_READINESS_S) if replica.flaps else changed.wait())

    def _obey(self, name: str) -> None:
        hosted, word = self._hosted.get(name), self._told.get(name)
        if hosted is not None and word == "stop":
            hosted.stop()
        elif hosted is not None and word == "kill":
            hosted.crash(KILLED)

    def _settle(self) -> None:
        """Look after the garbage collector when servers have come or gone, once for all of them."""
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(_QUIET_S, _spare_collector_again)


def _spare_collector_again() -> None:
    gc.unfreeze()  # what has ended since must not stay for good
    spare_collector()


def _state(replica: Replica) -> dict[str, Any]:
    state = replica.in_force
    return {"revision": state.revision, "hash": state.document.hash, "unready": replica.unready}


def _split(arguments: Sequence[str]) -> list[str]:
    """Arguments without `--config FILE` and `--host ADDRESS`, then the file and the address."""
    rest, found = list(arguments), []
    for flag in ("--config", "--host"):
        at = rest.index(flag)
        found.append(rest[at + 1])
        del rest[at : at + 2]
    return [*rest, *found]


async def _serve() -> None:
    # What somebody prints must not come between the lines for the supervisor.
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(_LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    def tell(line: Mapping[str, Any]) -> None:
        try:
            os.write(out, json.dumps(line).encode() + b"\n")
        except OSError:  # nobody listens any more, and the end of the input will say so
            return

    pack = Pack(tell)
    on_stop_signal(lines.feed_eof)
    while line := await lines.readline():
        pack.take(json.loads(line))
    await pack.end()


def main() -> None:
    """Host servers until standard input ends."""
    set_up(LogLevel.INFO, LogFormat.TEXT, LogFiles())
    return_large_blocks()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
