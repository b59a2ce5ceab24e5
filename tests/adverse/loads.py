"""Clients that misbehave: each function keeps at it for some seconds against a server on a port of the loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Any, Final

IDLE: Final = 2_000
DISCONNECTS_PER_S: Final = 300
MEGABYTES: Final = 10

Load = Callable[[int, float], Awaitable[Any]]


def post(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(**fields: Any) -> bytes:
    """A chat that streams."""
    request = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "ignore_eos": True, **fields}
    return post("/v1/chat/completions", json.dumps(request).encode())


async def slow_readers(port: int, seconds: float) -> None:
    """Streams of 24 choices each, read a few bytes at a time or not at all."""
    end = time.monotonic() + seconds

    async def reader(number: int) -> None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, chat(n=24, max_tokens=3_000))
        while time.monotonic() < end:
            await asyncio.sleep(0.2)
            if number % 2:
                assert await asyncio.wait_for(loop.sock_recv(connection, 64), 5)
        connection.close()

    await asyncio.gather(*(reader(number) for number in range(8)))


async def idle_connections(port: int, seconds: float) -> None:
    """Two thousand connections: without a byte, with half a head, or with half a body."""
    beginnings = (b"", b"POST /v1/chat/completions HTT", chat(max_tokens=1)[:-10])
    opened = []
    for number in range(IDLE):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(beginnings[number % 3])
        opened.append(writer)
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    assert len(opened) == IDLE
    await asyncio.sleep(seconds)
    for writer in opened:
        writer.close()


def _of_size(before: bytes, item: bytes, after: bytes) -> bytes:
    """A body of 10 MB of one item, over and over."""
    return before + b",".join([item] * (MEGABYTES * 1_000_000 // (len(item) + 1))) + after


@cache
def _texts() -> list[tuple[bytes, int]]:
    message = b'{"messages":[{"role":"user","content":"' + b"word " * 2_000_000 + b'"}]}'
    return [(post("/v1/chat/completions", message), 400)]


@cache
def _lists() -> list[tuple[bytes, int]]:
    chats, completions = "/v1/chat/completions", "/v1/completions"
    keys = b",".join(b'"k%d":%d' % (number, number) for number in range(600_000))
    return [
        (post(completions, _of_size(b'{"prompt":[', b"7", b"]}")), 400),
        (post(completions, _of_size(b'{"prompt":[', b'"a"', b"]}")), 400),
        (post(completions, _of_size(b'{"prompt":[', b"[7]", b"]}")), 400),
        (post(completions, _of_size(b'{"prompt":"a","max_tokens":1,"x":[', b"[[],{}]", b"]}")), 200),
        (post(completions, b'{"prompt":"a","max_tokens":1,' + keys + b"}"), 200),
        (post(chats, _of_size(b'{"messages":[', b'{"role":"user","content":"a"}', b"]}")), 400),
        (
            post(chats, _of_size(b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":"a"}', b"]}]}")),
            400,
        ),
        (post(chats, _of_size(b'{"messages":[', b'{"role":[]}', b"]}")), 400),
        (post("/inference/v1/generate", _of_size(b'{"sampling_params":{},"token_ids":[', b"777", b"]}")), 400),
        (post("/inference/v1/abort_requests", _of_size(b'{"request_ids":[', b'"abc"', b"]}")), 200),
        (post("/invocations", _of_size(b'{"messages":[', b"{}", b"]}")), 400),
        (post("/detokenize", _of_size(b'{"tokens":[', b"777", b"]}")), 200),
    ]


@cache
def _tokenized() -> list[tuple[bytes, int]]:
    return [
        (post("/tokenize", b'{"prompt":"' + b"word " * (MEGABYTES * 200_000) + b'"}'), 200),
        (post("/v1/completions", b'{"truncate_prompt_tokens":9,"prompt":"' + b"a, b" * 2_500_000 + b'"}'), 200),
    ]


async def _repeat(port: int, seconds: float, requests: Iterable[tuple[bytes, int]]) -> None:
    end = time.monotonic() + seconds
    for request, status in itertools.cycle(requests):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), 60)
        assert line.startswith(b"HTTP/1.1 %d " % status), (line, request[:200])
        while await reader.read(1 << 20) if status == 200 and b"/tokenize" in request[:99] else b"":
            pass
        writer.close()
        if time.monotonic() > end:
            return
        await asyncio.sleep(0.05)


async def large_texts(port: int, seconds: float) -> None:
    """Conversations of 10 MB, one after the other: each is told that it is too long."""
    await _repeat(port, seconds, _texts())


async def large_lists(port: int, seconds: float) -> None:
    """Bodies of millions of tokens, keys, messages, ids: served, or refused as they would be if they were short."""
    await _repeat(port, seconds, _lists())


async def large_tokenizing(port: int, seconds: float) -> None:
    """Texts of 10 MB that are made tokens."""
    await _repeat(port, seconds, _tokenized())


async def disconnects(port: int, seconds: float) -> None:
    """Three hundred clients per second that leave their streams, half of them with a reset.

    As many as that makes in `seconds`, however long a busy machine takes to be so many clients.
    """
    wanted = round(seconds * DISCONNECTS_PER_S)
    began, left, tasks = time.monotonic(), 0, set()

    async def leave(*, hard: bool) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(chat(max_tokens=1000))
        await asyncio.sleep(0.1)
        if hard:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    while left < wanted:
        while left < min(wanted, (time.monotonic() - began) * DISCONNECTS_PER_S):
            left += 1
            task = asyncio.create_task(leave(hard=left % 2 == 0))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)


async def all_at_once(port: int, seconds: float) -> None:
    """Slow readers, idle connections, lists of 10 MB and disconnects together."""
    loads = (slow_readers, idle_connections, large_lists, disconnects)
    await asyncio.gather(*(load(port, seconds) for load in loads))


LOADS: Final[tuple[Load, ...]] = (
    slow_readers,
    idle_connections,
    large_texts,
    large_lists,
    large_tokenizing,
    disconnects,
    all_at_once,
)
