"""`ghostfleet serve`: one server in this process, until it is told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from ghostfleet_simulator.api.admin import build_admin
from ghostfleet_simulator.api.app import build_app
from ghostfleet_simulator.api.protocol import StreamingProtocol
from ghostfleet_simulator.bearer import Bearer
from ghostfleet_simulator.config import Listen, ServerConfig
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.flags import Options
from ghostfleet_simulator.loading import load
from ghostfleet_simulator.runtime.config_file import follow
from ghostfleet_simulator.runtime.server import SimulatedServer

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_log = logging.getLogger("ghostfleet.serve")


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns off Nagle's algorithm only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _listener(app: FastAPI, shutdown_seconds: int) -> _Listener:
    return _Listener(
        uvicorn.Config(
            app,
            http=StreamingProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            backlog=4096,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=shutdown_seconds,
        )
    )


def _spare_collector() -> None:
    """Have the garbage collector leave alone what there is now, for it stays, and look less often at what comes.

    Each look through all of it would hold up the tokens that fall due by some 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; later ones change nothing."""
    stop = asyncio.Event()

    def told() -> None:
        if not stop.is_set():
            _log.info("[shutdown] API server: shutdown triggered")
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told)
    return stop


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Whether the work was done before the stop signal came; it is broken off by that."""
    tasks = [asyncio.create_task(work), asyncio.create_task(stop.wait())]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return tasks[0] in done and not stop.is_set()


def _mode(grace: int) -> str:
    return "drain" if grace else "abort"


def _address(listen: Listen) -> str:
    host = f"[{listen.host}]" if ":" in listen.host else listen.host or "0.0.0.0"  # noqa: S104 - what an empty host means
    return f"http://{host}:{listen.port}" if listen.uds is None else f"unix:{listen.uds}"


def _bearer(options: Options) -> Bearer | None:
    if options.admin_token_file is None:
        return None
    # The operator's pods have these; it sends each of them a token that no other one takes.
    return Bearer(options.admin_token_file, os.environ.get("POD_NAME", ""), os.environ.get("POD_IP", ""))


async def _serve(config: ServerConfig, document: Document | None, options: Options) -> None:
    listen = config.listen
    # Bound before anything else, so that a taken port is told at once; listening begins when the server is ready.
    sockets = {"port": _bind(listen.host, listen.port) if listen.uds is None else _bind_unix(listen.uds)}
    if listen.admin_port is not None:
        sockets["admin_port"] = _bind(listen.host, listen.admin_port)
    server = SimulatedServer(config, document=document, live_file=options.live_file)
    stop = _stop_signal()
    grace = listen.shutdown_timeout_seconds
    api = _listener(build_app(server, options.api_keys), grace + 5)
    admin = _listener(build_admin(server, _bearer(options)), 1) if "admin_port" in sockets else None
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = []
        if listen.uds is not None:
            stack.callback(Path(listen.uds).unlink, missing_ok=True)
        if admin is not None:
            tasks.append(group.create_task(admin.serve([sockets["admin_port"]])))
        if options.config_path is not None and document is not None and document.revision is not None:
            follower = group.create_task(follow(options.config_path, server.offer, document))
            stack.callback(follower.cancel)
        _spare_collector()
        if await _unless(stop, load(config)):
            _log.info("Starting vLLM server on %s", _address(listen))
            tasks.append(group.create_task(api.serve([sockets["port"]])))
            await api.listening.wait()
            server.start()
            _log.info("Application startup complete.")
            await stop.wait()
            _log.info("[shutdown] API server: stopping engine client mode=%s timeout=%ss", _mode(grace), grace)
            await server.shut_down(grace)
            _log.info("[shutdown] API server: signalling HTTP server shutdown")
        api.should_exit = True
        if admin is not None:
            admin.should_exit = True
        await asyncio.gather(*tasks)


def _return_large_blocks() -> None:
    """Have the C library give blocks from 1 MiB on back when they are freed, not keep them for the next large body."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc's
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_M_ARENA_MAX, 2)


def run(config: ServerConfig, document: Document | None, options: Options) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. A taken port is one line and code 1."""
    _return_large_blocks()
    try:
        asyncio.run(_serve(config, document, options))
    except OSError as error:
        listen = config.listen
        host = listen.host or "0.0.0.0"  # noqa: S104 - what an empty host means
        place = f"{host} port {listen.port}" if listen.uds is None else f"{listen.uds}"
        place += f" or {listen.admin_port}" if listen.admin_port else ""
        _log.error("cannot listen on %s: %s", error.filename or place, error.strerror)
        return 1
    return 0
