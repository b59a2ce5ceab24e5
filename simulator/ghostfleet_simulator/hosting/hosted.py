"""One replica with its listeners: bound, loaded, served, ended or crashed, in an event loop that others may share."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ghostfleet_simulator.api.admin import build_admin
from ghostfleet_simulator.api.app import build_app
from ghostfleet_simulator.api.hot import Application
from ghostfleet_simulator.api.side_channel import build_side_channel, side_channels
from ghostfleet_simulator.bearer import Bearer
from ghostfleet_simulator.config import Listen, ServerConfig
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.flags import Options
from ghostfleet_simulator.hosting.listener import Listener
from ghostfleet_simulator.hosting.sockets import bound, bound_unix
from ghostfleet_simulator.loading import load
from ghostfleet_simulator.runtime.config_file import follow
from ghostfleet_simulator.runtime.process_faults import end_process
from ghostfleet_simulator.runtime.replica import Replica
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import zmq  # loads only where KV events are published

_ADMIN_SHUTDOWN_S: Final = 1
_SIDE_SHUTDOWN_S: Final = 1
_log = logging.getLogger("ghostfleet.serve")


class CannotListen(Exception):
    """A socket cannot be had; the message is fit for a person."""


class Hosted:
    """One replica and its sockets. They are bound when it is made, within a running event loop; `run` serves on them.

    Nothing of it is the process's: several may be made in one event loop, each ends by itself.
    """

    def __init__(
        self,
        config: ServerConfig,
        document: Document | None,
        options: Options,
        *,
        tokenizer: Tokenizer | None = None,
        kv_context: zmq.Context[zmq.Socket[bytes]] | None = None,
        environ: Mapping[str, str] = os.environ,
        shares_process: bool = False,
    ) -> None:
        """Where the server `shares_process` with others, an injected crash ends it alone, else the process.

        `options` say nothing here that concerns the process (logging). `environ` tells what the pod is called. Servers
        of a process may share a tokenizer, and the threads of a ZeroMQ context.

        Raises:
            CannotListen: an address is taken or not to be had.
            InvalidInput: the configuration cannot be served.
        """
        self.listening = asyncio.Event()
        """Set when the server takes requests."""
        self._options = options
        self._document = document
        self._told = asyncio.Event()
        self._crash_code: int | None = None
        with ExitStack() as stack:
            try:
                # Bound before anything else, so that a taken port is told at once; listening begins later.
                listen = config.listen
                sockets = []
                for port in config.ports:
                    sockets.append(bound(listen.host, port))
                    stack.callback(sockets[-1].close)
                if listen.uds is not None:
                    sockets.append(bound_unix(listen.uds))
                    stack.callback(sockets[-1].close)
                    stack.callback(Path(listen.uds).unlink, missing_ok=True)
                admin_socket = None if listen.admin_port is None else bound(listen.host, listen.admin_port)
                if admin_socket is not None:
                    stack.callback(admin_socket.close)
                servers: list[SimulatedServer] = []
                stack.callback(self._close, servers)
                for one in config.servers:
                    server = SimulatedServer(
                        one,
                        document=document or Document.of(config),
                        tokenizer=tokenizer,
                        kv_context=kv_context,
                        live_file=None if servers else options.live_file,
                        environ=environ,
                        end=self.crash if shares_process else end_process,
                    )
                    servers.append(server)
                    tokenizer = server.tokenizer
            except OSError as error:
                raise _cannot_listen(config, error) from None
            self.replica = Replica(config, servers)
            patience = listen.shutdown_timeout_seconds + 5
            applications = [build_app(server, options.api_keys, options.llmd) for server in servers]
            self._apis = [(Listener(app, patience), one) for app, one in zip(applications, sockets, strict=True)]
            self._side = [
                (Listener(build_side_channel(exchanges), _SIDE_SHUTDOWN_S), _side_socket(stack, listen, port))
                for server in servers
                for port, exchanges in side_channels(server).items()
                if port != server.config.listen.port
            ]
            self._admin: Listener | None = None
            if admin_socket is not None:
                self._admin_socket = admin_socket
                admin = Application(partial(build_admin, self.replica, _bearer(options, environ)))
                applications.append(admin)
                self._admin = Listener(admin, _ADMIN_SHUTDOWN_S)
            if not shares_process:
                for application in applications:
                    application.prepare()
            self._held = stack.pop_all()

    async def run(self) -> int:
        """Serve until `stop` or a crash, and release everything.

        Returns:
            The exit code of a process that had no other server: 0, or that of the crash.

        Raises:
            CannotListen: somebody else listens on one of the addresses by now.
        """
        with self._held:
            try:
                async with asyncio.TaskGroup() as group:
                    await self._run(group)
            except* OSError as errors:
                error = errors.exceptions[0]
                assert isinstance(error, OSError)  # noqa: S101 - for the type checker
                raise _cannot_listen(self.replica.config, error) from None
        return self._crash_code or 0

    def stop(self) -> None:
        """Take no more requests, let those that run end within the time that the configuration gives them, and end."""
        self._told.set()

    def crash(self, code: int) -> None:
        """What the end of a process would do to this server, and nothing to the others."""
        self._crash_code = code
        for listener in self._listeners:
            listener.abort()
        # Not at once: this may be in the midst of handing out the tokens of a step.
        asyncio.get_running_loop().call_soon(self._held.close)
        self._told.set()

    async def _run(self, group: asyncio.TaskGroup) -> None:
        replica, options, listen = self.replica, self._options, self.replica.config.listen
        follower = None
        if self._admin is not None:
            group.create_task(self._admin.serve_on(self._admin_socket))
        if options.config_path is not None and self._document is not None and self._document.revision is not None:
            follower = group.create_task(follow(options.config_path, replica.offer, self._document))
        if await self._unless_told(load(replica.config)):
            for side, opened in self._side:
                group.create_task(side.serve_on(opened))
            for server, (api, opened) in zip(replica.servers, self._apis, strict=True):
                _log.info("Starting vLLM server on %s", _url(server.config.listen))
                group.create_task(api.serve_on(opened))
                await api.listening.wait()
            replica.start()
            _log.info("Application startup complete.")
            self.listening.set()
            await self._told.wait()
            if self._crash_code is None:
                await self._shut_down(listen.shutdown_timeout_seconds)
        for listener in self._listeners:
            listener.stop()
        if follower is not None:
            follower.cancel()

    async def _unless_told(self, work: Coroutine[None, None, None]) -> bool:
        """Whether the work was done before the server was told to stop; it is broken off by that."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self._told.wait())]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return tasks[0] in done and not self._told.is_set()

    async def _shut_down(self, grace: int) -> None:
        mode = "drain" if grace else "abort"
        _log.info("[shutdown] API server: stopping engine client mode=%s timeout=%ss", mode, grace)
        await self.replica.shut_down(grace)
        _log.info("[shutdown] API server: signalling HTTP server shutdown")

    @property
    def _listeners(self) -> list[Listener]:
        listening = [listener for listener, _ in (*self._apis, *self._side)]
        return listening if self._admin is None else [*listening, self._admin]

    def _close(self, servers: Iterable[SimulatedServer]) -> None:
        for server in servers:
            server.close(abruptly=self._crash_code is not None)


def _cannot_listen(config: ServerConfig, error: OSError) -> CannotListen:
    listen, ports = config.listen, config.ports
    if listen.uds is not None:
        place = listen.uds
    else:
        numbers = f"port {listen.port}" if len(ports) == 1 else f"ports {listen.port} to {ports[-1]}"
        place = f"{_host(listen)} {numbers}"
    place += f" or {listen.admin_port}" if listen.admin_port else ""
    hint = ""
    if error.errno == errno.EMFILE:
        hint = f" (this process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; `ulimit -n` allows more)"
    return CannotListen(f"cannot listen on {error.filename or place}: {error.strerror}{hint}")


def _side_socket(stack: ExitStack, listen: Listen, port: int) -> socket.socket:
    """A socket for the side channel."""
    try:
        made = bound(listen.host, port)
    except OSError as error:
        raise CannotListen(f"cannot listen on {_host(listen)} port {port} (kvTransfer): {error.strerror}") from None
    stack.callback(made.close)
    return made


def _host(listen: Listen) -> str:
    return listen.host or "0.0.0.0"  # noqa: S104 - what an empty host means


def _url(listen: Listen) -> str:
    host = f"[{listen.host}]" if ":" in listen.host else _host(listen)
    return f"http://{host}:{listen.port}" if listen.uds is None else f"unix:{listen.uds}"


def _bearer(options: Options, environ: Mapping[str, str]) -> Bearer | None:
    if options.admin_token_file is None:
        return None
    # The operator's pods have these; it sends each of them a token that no other one takes.
    return Bearer(options.admin_token_file, environ.get("POD_NAME", ""), environ.get("POD_IP", ""))
