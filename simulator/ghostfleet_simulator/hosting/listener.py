"""uvicorn's server as a part of a process: no signals, no start-up of its own, no wake-ups while nothing happens."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from ghostfleet_simulator.api.protocol import StreamingProtocol

_BACKLOG = 4096
_KEEP_ALIVE_S = 5
_SERVER = (b"server", b"uvicorn")
"""vLLM leaves uvicorn's own header on (entrypoints/launcher.py)."""
_ABORT_S = 1
"""How long a request may take to notice that its connection was dropped."""


class Listener(uvicorn.Server):
    """Serves one application on one socket until `stop` or `abort`."""

    def __init__(self, app: ASGIApp, shutdown_seconds: int) -> None:
        """`shutdown_seconds`: how long after `stop` answers may take to end."""
        super().__init__(
            uvicorn.Config(
                app,
                http=StreamingProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=shutdown_seconds,
            )
        )
        self.server_state = _State()
        self.listening = asyncio.Event()
        self._end = asyncio.Event()

    async def serve_on(self, bound: socket.socket) -> None:
        """Listen on a socket that is bound, and serve; returns when the last answer has ended. Raises `OSError`."""
        await self.serve([bound])

    def stop(self) -> None:
        """Take no more connections, and end when those there are have their answers."""
        self.should_exit = True
        self._end.set()

    def abort(self) -> None:
        """Close the socket and all connections at once, as the kernel does for a process that has ended."""
        for server in getattr(self, "servers", ()):
            server.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, StreamingProtocol):
                connection.abort()
        self.config.timeout_graceful_shutdown = _ABORT_S
        self.stop()

    # --- what uvicorn calls ----------------------------------------------------------------------

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own looks ten times a second whether it has come, and sets the date."""
        await self._end.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


class _State(ServerState):
    """What the connections of a listener share; the date is made when an answer needs it."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._second = 0
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of every answer."""
        if (now := int(time.time())) != self._second:
            date = (b"date", formatdate(now, usegmt=True).encode())
            self._second, self._headers = now, [date, _SERVER]
        return self._headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """There are no others; uvicorn sets them to begin with."""
