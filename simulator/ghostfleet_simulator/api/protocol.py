"""uvicorn's HTTP protocol, with the connection handed to the application.

Plain requests are answered past ASGI (`api.direct`). Of the others a streaming response writes its tokens to the
transport itself, without a coroutine switch or an ASGI message for each; headers and the end go the ordinary way.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import struct
import termios
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ghostfleet_simulator.config import Endpoint
from ghostfleet_simulator.runtime.generation import Generation

if TYPE_CHECKING:
    from ghostfleet_simulator.api.direct import Direct, Exchange

_EXTENSION: Final = "ghostfleet.connection"
_NO_LINGERING: Final = struct.pack("ii", 1, 0)
"""`struct linger` by which a close throws away what is not sent and resets the connection."""
_RESET_TRIES: Final = 200
_RESET_PAUSE_S: Final = 0.005
_log = logging.getLogger("ghostfleet.api")


class Connection:
    """One client connection as a streaming response sees it."""

    __slots__ = ("_socket", "descriptor", "flow", "lost", "on_lost", "on_writable", "transport")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        sock = transport.get_extra_info("socket")
        self._socket = -1 if sock is None else sock.fileno()
        self.descriptor = self._socket
        """The socket's while nothing waits in the transport, so that bytes may go past it; else -1."""
        self.transport = transport
        self.flow = flow
        """`flow.write_paused`: the kernel takes no more, for the reader is slower than the writer."""
        self.on_writable: Callable[[], None] | None = None
        """Called when the reader has caught up."""
        self.on_lost: Callable[[], None] | None = None
        """Called when the client has gone away."""
        self.lost = False
        """Whether it has."""

    def send(self, data: bytes) -> None:
        """Send bytes; past the transport, which doubles the cost of a write, where that keeps their order."""
        sent = 0
        if self.descriptor >= 0:
            try:
                sent = os.write(self.descriptor, data)
            except OSError:
                sent = 0  # the kernel takes no more, or the connection is broken: the transport knows what to do
        if sent < len(data):
            self.transport.write(data[sent:])

    def pause(self) -> None:
        """Something waits in the transport, whose high-water mark is 0."""
        self.descriptor = -1

    def resume(self) -> None:
        """Nothing does any more."""
        self.descriptor = self._socket
        if self.on_writable is not None:
            self.on_writable()

    def lose(self) -> None:
        """The client has gone away; the number of its socket may be another client's soon."""
        self.descriptor = self._socket = -1
        self.lost = True
        if self.on_lost is not None:
            self.on_lost()

    def abort(self) -> None:
        """Drop the connection with all that waits to be sent; nothing goes out any more."""
        self.descriptor = self._socket = -1
        self.transport.abort()

    async def attend(self, generation: Generation, on_writable: Callable[[], None] | None = None) -> None:
        """Return when a request has ended; it is abandoned if its client goes away or its task is cancelled."""
        self.on_lost, self.on_writable = generation.abandon, on_writable
        try:
            await generation.wait()
        except asyncio.CancelledError:
            generation.abandon()
            raise
        finally:
            self.on_lost = self.on_writable = None

    async def gone(self) -> None:
        """Wait until the connection is lost; takes the place of `on_lost`."""
        if not self.lost:
            lost = asyncio.Event()
            self.on_lost = lost.set
            await lost.wait()

    def end(self, *, reset: bool) -> None:
        """End the connection amid a response, behind what was written; with `reset`, by a TCP reset."""
        if reset:
            self._reset(_RESET_TRIES)
        else:
            self.transport.close()

    def _reset(self, tries: int) -> None:
        """Reset the connection when the peer has all that was written: a reset throws away what is on its way."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing():
            self.transport.abort()
        elif tries and (self.transport.get_write_buffer_size() or _unacknowledged(sock)):
            asyncio.get_running_loop().call_later(_RESET_PAUSE_S, self._reset, tries - 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
            self.transport.abort()


def _unacknowledged(sock: Any) -> bool:
    """Whether the kernel still has bytes of a socket that the peer has not acknowledged; no where it cannot tell."""
    try:
        return fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)) != bytes(4)
    except OSError:
        return False


def connection_of(scope: MutableMapping[str, Any]) -> Connection:
    """The connection that a request came by."""
    connection = scope["extensions"][_EXTENSION]
    assert isinstance(connection, Connection)  # noqa: S101 - for the type checker; only `StreamingProtocol` writes this key
    return connection


class StreamingProtocol(HttpToolsProtocol):
    """httptools protocol that offers requests to `api.direct`, and puts its `Connection` into the scope of the others.

    A request that may be plain is kept back until its body is there. What is not there at the end of the read it came
    with, and what is not taken, goes on as uvicorn has it.
    """

    connection: Connection
    _direct: Direct | None = None
    _endpoint: Endpoint | None = None
    """What the request that is kept back is for."""
    _body = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Keep transport and flow control together."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        self.connection = Connection(transport, self.flow)
        self._direct = getattr(self.app, "direct", None)

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""
        return self.server_state.default_headers

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        if self._endpoint is not None:
            self._go_on()

    def on_headers_complete(self) -> None:
        """Keep a request back that may be plain; hand the connection of any other to the application."""
        parser = self.parser
        if (
            self._direct is not None
            and (endpoint := self._direct.endpoint(parser.get_method(), self.url)) is not None
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused  # ASGI waits for a client that does not read
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
        ):
            self._endpoint, self._body = endpoint, b""
        else:
            self._start()

    def on_body(self, body: bytes) -> None:
        """Read a part of a body."""
        if self._endpoint is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """Have a plain request answered."""
        if self._endpoint is None:
            super().on_message_complete()
        elif not self._taken(self._endpoint):
            self._go_on()
            super().on_message_complete()

    def _taken(self, endpoint: Endpoint) -> bool:
        assert self._direct is not None  # noqa: S101 - for the type checker; nothing is kept back without it
        # An error would pass through httptools, which takes it for a bad request.
        try:
            exchange = self._direct.take(self, self.connection, endpoint, self.headers, self._body)
        except Exception as error:  # noqa: BLE001 - the ordinary way has an answer to all of them
            _log.error("a request could not be read as a plain one: %r", error)
            return False
        if exchange is None:
            return False
        self._endpoint = None
        self._body = b""
        self.cycle = exchange  # type: ignore[assignment]  # it has what is looked at
        try:
            exchange.begin()
        except Exception as error:  # noqa: BLE001 - as above
            _log.error("a request failed: %r", error)
            self.transport.abort()
        return True

    def ended(self, exchange: Exchange) -> None:
        """An answer that was not ASGI's is complete."""
        cycle: object = self.cycle
        if cycle is exchange:
            self.cycle = None  # type: ignore[assignment]  # as before the first request
        self.on_response_complete()

    def _go_on(self) -> None:
        """Keep a request back no longer."""
        self._endpoint = None
        self._start()
        super().on_body(self._body)
        self._body = b""

    def _start(self) -> None:
        self.scope["extensions"] = {_EXTENSION: self.connection}  # type: ignore[dict-item]  # extensions are open by specification
        in_front = self.cycle
        super().on_headers_complete()
        if len(self.pipeline) == 1 and not isinstance(in_front, RequestResponseCycle):
            # Only who reads notices that a client leaves: a cycle reads on when it listens for that, an exchange not.
            self.flow.resume_reading()

    def abort(self) -> None:
        """Drop the connection."""
        if self.connection is not None:
            self.connection.abort()

    def pause_writing(self) -> None:
        """Have a stream hold back what comes."""
        super().pause_writing()
        self.connection.pause()

    def resume_writing(self) -> None:
        """Let a stream send what it held back."""
        super().resume_writing()
        self.connection.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let a stream end at once."""
        super().connection_lost(exc)
        self.connection.lose()
