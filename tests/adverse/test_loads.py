"""Clients that misbehave do not delay the tokens of those that do not, and the memory they took comes back.

The well-behaved client is a process of its own (`probe`), run once in peace and once under each load. The machine's own
delays are its too: it is asked for as much patience as the probe's own wake-ups needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Serve, Served

pytestmark = pytest.mark.soak
SOAK = os.environ.get("GHOSTFLEET_SOAK") == "1"
SECONDS = 10.0 if SOAK else 2.0
STREAMS, ITL_MS = 16, 20
IDLE = 2_000
DISCONNECTS_PER_S = 300
MOST_LATE_MS = 50.0
FLOOR_MS = 12.0
"""A p99 below this is as good as nothing on a shared machine."""
ROOT = Path(__file__).parents[2]

Load = Callable[[int, float], Awaitable[Any]]


@pytest.fixture(scope="module")
def paced(serve: Serve) -> Served:
    """A server with room for all, 20 ms between two tokens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return serve("--time-to-first-token", "50ms", "--inter-token-latency", f"{ITL_MS}ms", "--max-num-seqs", "1024")
    finally:
        if soft != resource.RLIM_INFINITY and soft > 3 * IDLE:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def probe(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.adverse.probe", str(port), str(STREAMS), str(SECONDS), str(ITL_MS)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def seen(process: subprocess.Popen[bytes]) -> dict[str, float]:
    out, _ = process.communicate(timeout=SECONDS + 60)
    found: dict[str, float] = json.loads(out)
    assert found["least_tokens"] > SECONDS * 1e3 / ITL_MS * 0.7
    return found


def post(path: str, body: bytes, *more: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(**fields: Any) -> bytes:
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


async def large_bodies(port: int, seconds: float) -> None:
    """Conversations of 10 MB, one after the other: each is told that it is too long."""
    text = random.Random(1).choice(("word ", "mot ")) * 2_000_000
    body = post("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await asyncio.sleep(0.1)


async def disconnects(port: int, seconds: float) -> None:
    """Three hundred clients per second that leave their streams, half of them with a reset."""
    began, left, tasks = time.monotonic(), 0, set()

    async def leave(*, hard: bool) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(chat(max_tokens=1000))
        await asyncio.sleep(0.1)
        if hard:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    while (passed := time.monotonic() - began) < seconds:
        while left < passed * DISCONNECTS_PER_S:
            left += 1
            task = asyncio.create_task(leave(hard=left % 2 == 0))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    assert left >= seconds * DISCONNECTS_PER_S * 0.95


LOADS: tuple[Load, ...] = (slow_readers, idle_connections, large_bodies, disconnects)


@pytest.fixture(scope="module")
def calm(paced: Served) -> dict[str, float]:
    """What the probe sees with nobody else there."""
    return seen(probe(paced.port))


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_others_keep_their_pace(
    paced: Served, calm: dict[str, float], load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    """No token comes later than 50 ms, the p99 of the gap error at most doubles, and memory comes back."""
    asyncio.run(load(paced.port, 0.5))  # what is set up once is not growth
    paced.until(running=0, waiting=0)
    before = paced.resident_bytes()
    watch = probe(paced.port)
    asyncio.run(load(paced.port, SECONDS))
    under = seen(watch)
    state = paced.until(running=0, waiting=0, kvUsage=0.0)
    grown = paced.resident_bytes() - before
    with capfd.disabled():
        figures = "; ".join(
            f"{key} {calm[key]:.1f} -> {under[key]:.1f}" for key in sorted(under) if key.endswith("_ms")
        )
        sys.stdout.write(f"\n{load.__name__}: {figures}; {grown / 2**20:+.1f} MiB\n")
    assert under["late_max_ms"] < max(MOST_LATE_MS, 2 * calm["late_max_ms"]) + 2 * under["own_late_max_ms"]
    assert under["gap_error_p99_ms"] < max(FLOOR_MS, 2 * calm["gap_error_p99_ms"]) + 2 * under["own_late_p99_ms"]
    assert grown < 32 << 20, state
    assert paced.process.poll() is None
    assert "Traceback" not in paced.log.read_text()
