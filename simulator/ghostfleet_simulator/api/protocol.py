"""uvicorn's HTTP protocol, with the connection handed to the application.

A streaming response writes its tokens to the transport itself: no coroutine switch and no ASGI message per token. All
else, headers and the end of the body included, goes the ordinary way.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_EXTENSION: Final = "ghostfleet.connection"
_NO_LINGERING: Final = struct.pack("ii", 1, 0)
"""`struct linger` by which a close throws away what is not sent and resets the connection."""
_HIGH_WATER: Final = 16 * 1024
"""Bytes that wait for a slow reader before its deltas are merged: some 60 tokens."""


class Connection:
    """One client connection as a streaming response sees it."""

    __slots__ = ("flow", "on_lost", "on_writable", "transport")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self.transport = transport
        self.flow = flow
        """`flow.write_paused`: the reader is slower than the writer."""
        self.on_writable: Callable[[], None] | None = None
        """Called when the reader has caught up."""
        self.on_lost: Callable[[], None] | None = None
        """Called when the client has gone away."""

    def end(self, *, reset: bool) -> None:
        """End the connection amid a response: behind what was written, or at once and with a TCP reset."""
        if not reset:
            self.transport.close()
            return
        if (sock := self.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self.transport.abort()


def connection_of(scope: MutableMapping[str, Any]) -> Connection:
    """The connection that a request came by."""
    connection = scope["extensions"][_EXTENSION]
    assert isinstance(connection, Connection)  # noqa: S101 - for the type checker; only `StreamingProtocol` writes this key
    return connection


class StreamingProtocol(HttpToolsProtocol):
    """httptools protocol that puts its `Connection` into the ASGI scope."""

    connection: Connection | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Keep transport and flow control together."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.connection = Connection(transport, self.flow)

    def on_headers_complete(self) -> None:
        """Hand the connection to the application."""
        self.scope["extensions"] = {_EXTENSION: self.connection}  # type: ignore[dict-item]  # extensions are open by specification
        super().on_headers_complete()

    def resume_writing(self) -> None:
        """Let a stream send what it held back."""
        super().resume_writing()
        if self.connection is not None and self.connection.on_writable is not None:
            self.connection.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let a stream end at once."""
        super().connection_lost(exc)
        if self.connection is not None and self.connection.on_lost is not None:
            self.connection.on_lost()
