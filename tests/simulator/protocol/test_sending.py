"""How the bytes of a stream get to the kernel: all of a step at once, and in order whatever the kernel takes."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.flow_control import FlowControl

from ghostfleet_simulator.api.protocol import Connection
from ghostfleet_simulator.runtime.outbox import Outbox


class _Line:
    descriptor = -1

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)


def test_an_outbox_keeps_what_is_said_in_a_step_until_it_is_over() -> None:
    """Nothing leaves before, all leaves in order then, and outside of a step at once."""
    outbox, one, other = Outbox(), _Line(), _Line()
    outbox.open()
    outbox.put(one, b"a")
    outbox.put(other, b"b")
    outbox.put(one, b"c")
    assert (one.sent, other.sent) == ([], [])
    outbox.close()
    assert (one.sent, other.sent) == ([b"ac"], [b"b"])
    outbox.put(one, b"d")
    assert one.sent == [b"ac", b"d"]


def test_what_is_kept_can_leave_amid_a_step() -> None:
    """A failure that happens at a token comes behind what was said before it."""
    outbox, line = Outbox(), _Line()
    outbox.open()
    outbox.put(line, b"before")
    outbox.flush()
    assert line.sent == [b"before"]
    outbox.put(line, b"after")
    assert line.sent == [b"before"]
    outbox.close()
    assert line.sent == [b"before", b"after"]


class _Protocol(asyncio.Protocol):
    """Puts a `Connection` on a server's side of a socket, as the HTTP protocol does."""

    def __init__(self, made: asyncio.Future[Connection]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)
        self.flow = FlowControl(transport)
        self._connection = Connection(transport, self.flow)
        self._made.set_result(self._connection)

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._connection.pause()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._connection.resume()


def test_what_the_kernel_does_not_take_is_sent_later_and_in_order() -> None:
    """A reader who waits until the socket is full, and reads then, gets every byte in its place."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Connection] = loop.create_future()
        server = await loop.create_server(lambda: _Protocol(made), "127.0.0.1", 0)
        reader = socket.create_connection(server.sockets[0].getsockname())
        reader.setblocking(False)
        connection = await made
        said = bytearray()
        for number in range(200_000):
            line = b"%07d\n" % number * 512
            said += line
            connection.send(line)
            if connection.transport.get_write_buffer_size() > 1 << 16:
                break
        assert connection.flow.write_paused
        read = bytearray()
        while len(read) < len(said):
            read += await loop.sock_recv(reader, 1 << 20)
        assert read == said
        assert not connection.flow.write_paused
        connection.send(b"the end")
        assert await loop.sock_recv(reader, 100) == b"the end"
        reader.close()
        connection.transport.close()
        server.close()

    asyncio.run(run())


def test_a_reader_who_takes_nothing_holds_up_nobody_else_and_gets_all_in_order() -> None:
    """One of many clients of the same steps reads only when the others have everything."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        coming: asyncio.Queue[Connection] = asyncio.Queue()

        def protocol() -> _Protocol:
            made: asyncio.Future[Connection] = loop.create_future()
            made.add_done_callback(lambda done: coming.put_nowait(done.result()))
            return _Protocol(made)

        server = await loop.create_server(protocol, "127.0.0.1", 0)
        readers = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(8)]
        connections = [await coming.get() for _ in readers]
        ports = [connection.transport.get_extra_info("peername")[1] for connection in connections]
        readers.sort(key=lambda reader: ports.index(reader.getsockname()[1]))
        for reader in readers:
            reader.setblocking(False)
        outbox, slow, said = Outbox(), 3, bytearray()
        read = [bytearray() for _ in readers]

        async def catch_up(index: int) -> None:
            while len(read[index]) < len(said):
                read[index] += await loop.sock_recv(readers[index], 1 << 20)

        for number in range(200_000):
            frame = b"%07d\n" % number * 512
            said += frame
            outbox.open()
            for connection in connections:
                outbox.put(connection, frame)
            outbox.close()
            for index in range(len(readers)):
                if index != slow:
                    await catch_up(index)
            if connections[slow].transport.get_write_buffer_size() > 1 << 16:
                break
        assert connections[slow].flow.write_paused
        await catch_up(slow)
        assert all(got == said for got in read)
        for reader, connection in zip(readers, connections, strict=True):
            reader.close()
            connection.transport.close()
        server.close()

    asyncio.run(run())


def test_a_connection_that_is_lost_writes_to_no_descriptor() -> None:
    """Its number may be another client's by now."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Connection] = loop.create_future()
        server = await loop.create_server(lambda: _Protocol(made), "127.0.0.1", 0)
        reader = socket.create_connection(server.sockets[0].getsockname())
        connection = await made
        connection.transport.abort()
        connection.lose()
        await asyncio.sleep(0)
        connection.send(b"nobody hears this")
        assert reader.recv(100) == b""
        reader.close()
        server.close()

    asyncio.run(run())
