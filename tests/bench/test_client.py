"""The load client counts tokens exactly and measures what it says, whatever way the bytes arrive."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from bench.client import BenchError, Endpoint, Load, Measurement, cache_folder, compiled, measure

Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
"""Writes the answer to the n-th request of a connection."""

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = '{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
END = '{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}'


def token(text: str = " a") -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def usage(tokens: int) -> str:
    return json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}})


def events(*payloads: str, newline: str = "\n") -> bytes:
    return "".join(f"data: {payload}{newline}{newline}" for payload in (*payloads, "[DONE]")).encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


@pytest.fixture(scope="session")
def binary() -> Path:
    return compiled(cache_folder())


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[Endpoint]:
    """A server whose process is this test's."""
    requests = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                requests += 1
                await answer(writer, requests)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], "", "m", (os.getpid(),))


async def measured(
    binary: Path, answer: Answer, *, itl_ms: float | None = None, ttft_ms: float | None = None
) -> Measurement:
    """One stream without warm-up. When a request ends the next one comes at once; `answer` may leave it waiting."""
    load = Load(1, 10, ttft_ms, itl_ms, warm_up=0, window=0.3 if itl_ms is None else 0.8)
    async with listening(answer) as endpoint:
        return await asyncio.to_thread(measure, binary, endpoint, load)


def once(data: bytes) -> Answer:
    """Answers the first request only; the second one waits until the client goes away."""

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 1:
            writer.write(data)

    return answer


@pytest.mark.parametrize("seed", range(4))
async def test_tokens_are_counted_exactly_however_frames_are_cut_into_chunks_and_reads(binary: Path, seed: int) -> None:
    """A frame may lie over many chunks, a chunk over many reads, and a read may hold several of either."""
    random = Random(seed)
    rest = events(ROLE, *(token(f' "{i}": {{}}\\ "text":') for i in range(40)), END, usage(40))
    data = b""
    while rest:
        size = random.choice([1, 2, 7, 80, 400])
        data += chunk(rest[:size], random.choice([b"", b";x=1"]))
        rest = rest[size:]
    data = CHUNKED + data + b"0\r\nx-trailer: 1\r\n\r\n"

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        position = 0
        while number == 1 and position < len(data):
            size = random.choice([1, 3, 50, 1000])
            writer.write(data[position : position + size])
            await writer.drain()
            await asyncio.sleep(0)
            position += size

    result = await measured(binary, answer)
    assert (result.tokens, result.events, result.merged, result.requests) == (40, 40, 0, 1)
    assert result.requests_without_usage == 0


async def test_merged_deltas_are_told_by_the_usage(binary: Path) -> None:
    """Six events for ten tokens: ten tokens, four of them merged."""
    result = await measured(
        binary, once(CHUNKED + chunk(events(ROLE, *[token(" a b")] * 6, END, usage(10))) + chunk(b""))
    )
    assert (result.tokens, result.events, result.merged) == (10, 6, 4)


async def test_an_answer_in_one_piece_counts_by_its_usage(binary: Path) -> None:
    """It has no events, and all of its tokens are merged."""
    body = b'{"choices":[{"message":{"content":"a\\n b"}}],"usage":{"completion_tokens":2}}'
    result = await measured(binary, once(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)))
    assert (result.tokens, result.events, result.requests, result.requests_without_usage) == (2, 0, 1, 0)


async def test_an_open_stream_counts_by_its_events(binary: Path) -> None:
    """A stream that has not ended in the window has no usage yet; what came of it counts all the same."""
    result = await measured(binary, once(CHUNKED + chunk(events(ROLE, *[token()] * 7)[: -len("data: [DONE]\n\n")])))
    assert (result.tokens, result.requests) == (7, 0)


async def test_a_server_without_usage_is_noticed(binary: Path) -> None:
    """Without usage the events are the tokens, and the measurement says so."""
    result = await measured(binary, once(CHUNKED + chunk(events(*[token()] * 5)) + chunk(b"")))
    assert (result.tokens, result.requests, result.requests_without_usage) == (5, 1, 1)


@pytest.mark.parametrize(
    ("payloads", "tokens"),
    [
        ([ROLE, token(), token(), END], 2),
        ([ROLE, token(), '{"choices":[{"delta":{"content":" b"},"finish_reason":"length"}]}'], 2),
        (['{"choices":[{"delta":{"role":"assistant","content":" a"},"finish_reason":null}]}', token()], 2),
        ([ROLE, token(""), token("é"), END], 2),
        (['{"choices":[{"text":" a","finish_reason":null}]}', '{"choices":[{"text":"","finish_reason":"stop"}]}'], 1),
        (['{"choices": [{"delta": {"role": "assistant", "content": ""}}]}', '{"choices": [], "usage": null}'], 0),
    ],
    ids=["finish-without-text", "finish-with-text", "role-with-text", "half-a-character", "completion", "no-token"],
)
async def test_only_events_that_carry_a_token_count(binary: Path, payloads: list[str], tokens: int) -> None:
    """Role, finish and usage chunks are no tokens; a token whose text is held back is one."""
    spare = CHUNKED + chunk(events(*payloads)) + chunk(b"")
    if tokens:
        assert (await measured(binary, once(spare))).events == tokens
    else:
        with pytest.raises(BenchError, match="not one token"):
            await measured(binary, once(spare))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("framing", ["sized", "until-close", "chunked-then-close"])
async def test_every_way_to_end_a_body_is_understood(binary: Path, framing: str, newline: str) -> None:
    """A length, the end of the connection, and a last chunk with `Connection: close`; the client connects again."""
    data = events(ROLE, *[token()] * 3, END, usage(3), newline=newline)
    whole = {
        "sized": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data),
        "until-close": b"HTTP/1.0 200 OK\r\n\r\n" + data,
        "chunked-then-close": CHUNKED[:-2] + b"Connection: close\r\n\r\n" + chunk(data) + chunk(b""),
    }[framing]

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        if number <= 2:
            writer.write(whole)
            await writer.drain()
            if framing != "sized":
                writer.close()

    result = await measured(binary, answer)
    assert (result.tokens, result.requests) == (6, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'HTTP/1.1 429 Too Many\r\ncontent-length: 15\r\n\r\n{"error":"full"}', '429: {"error":"full"'),
        (CHUNKED + chunk(b'data: {"error":{"message":"engine is gone"}}\n\n'), "engine is gone"),
        (CHUNKED + chunk(f"data: {token()}\n\n".encode()) + chunk(b""), r"ended without \[DONE\] after 1 token"),
        (CHUNKED + b"zz\r\n", "bad chunk size"),
        (b"SSH-2.0-x\r\n\r\n\r\n", "not an HTTP/1 answer: SSH-2.0-x"),
    ],
    ids=["status", "error-frame", "no-done", "chunk-size", "not-http"],
)
async def test_anything_but_a_complete_answer_ends_the_run_with_one_line(
    binary: Path, data: bytes, message: str
) -> None:
    """A window with errors measures nothing, so there is no measurement."""
    with pytest.raises(BenchError, match=message) as error:
        await measured(binary, once(data))
    assert "\n" not in str(error.value)


async def test_a_connection_lost_in_a_stream_ends_the_run(binary: Path) -> None:
    """So it does when a server dies."""

    async def answer(writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(CHUNKED + chunk(f"data: {token()}\n\n".encode()))
        await writer.drain()
        writer.close()

    with pytest.raises(BenchError, match="closed the connection after 1 token"):
        await measured(binary, answer)


async def test_gap_and_ttft_errors_are_what_the_server_was_late(binary: Path) -> None:
    """50 ms too late for the first token, 10 ms too long between tokens: never less, and on the whole not much more."""

    async def answer(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(CHUNKED)
        for at in range(8 if number == 1 else 0):
            await asyncio.sleep(0.030 if at else 0.150)
            writer.write(chunk(f"data: {token()}\n\n".encode()))
        if number == 1:
            writer.write(chunk(events(usage(8))) + chunk(b""))

    result = await measured(binary, answer, itl_ms=20, ttft_ms=100)
    assert result.gap_error_us
    assert result.ttft_error_us
    assert (result.gap_error_us.count, result.ttft_error_us.count) == (7, 1)
    assert 9_000 <= result.gap_error_us.p50 <= result.gap_error_us.p99 <= result.gap_error_us.max
    assert 9_000 <= result.gap_error_us.mean <= 60_000
    assert result.gap_error_us.mean_signed == pytest.approx(result.gap_error_us.mean)
    assert 49_000 <= result.ttft_error_us.max <= 250_000


async def test_a_server_that_is_too_fast_drifts_below_zero(binary: Path) -> None:
    """The mean of the error is taken of absolute values, the drift keeps the sign."""
    result = await measured(
        binary, once(CHUNKED + chunk(events(*[token()] * 9, usage(9))) + chunk(b"")), itl_ms=20, ttft_ms=0
    )
    assert result.gap_error_us
    assert result.gap_error_us.mean_signed == pytest.approx(-20_000, abs=1)
    assert result.gap_error_us.mean == pytest.approx(20_000, abs=1)


@contextmanager
def process(code: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        try:
            yield child.pid
        finally:
            child.kill()


async def test_cpu_time_is_that_of_all_threads_of_the_named_processes(binary: Path) -> None:
    """A thread beside an idle main thread counts, even if it has ended when the window does; waiting does not count."""
    data = CHUNKED + chunk(events(*[token()] * 4, usage(4))) + chunk(b"")

    async def answer(writer: asyncio.StreamWriter, _: int) -> None:
        await asyncio.sleep(0.05)
        writer.write(data)

    burn = "import threading, time\ndef burn():\n  while time.thread_time() < 0.15: pass\n"
    later = "print(flush=True)\ntime.sleep(0.3)\nthreading.Thread(target=burn).start()\ntime.sleep(60)"
    found = []
    async with listening(answer) as at:
        for code in (burn + later, "import time\nprint(flush=True)\ntime.sleep(60)"):
            with process(code) as pid:
                load = Load(1, 4, warm_up=0, window=1.5)
                result = await asyncio.to_thread(measure, binary, replace(at, pids=(pid,)), load)
                found.append(result.server_cpu_s)
    assert 0.14 <= found[0] <= 0.3
    assert found[1] <= 0.02


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_memory_is_that_of_the_process(binary: Path) -> None:
    """RSS agrees with what the kernel tells in another place."""
    result = await measured(binary, once(CHUNKED + chunk(events(token(), usage(1))) + chunk(b"")))
    assert result.memory_after.rss == pytest.approx(resident(), rel=0.1)
    assert 0 < result.memory_after.pss <= result.memory_after.rss


def test_a_paced_load_measures_one_whole_cycle() -> None:
    """500 tokens at 100 and 20 ms last 10.08 s; the window adds the second over which the streams began."""
    load = Load.paced(256, max_tokens=500, ttft_ms=100, itl_ms=20)
    assert load.window == pytest.approx(10.08 + 1)
    assert load.expected_rate == pytest.approx(256 * 500 / 10.08)


def test_the_client_is_compiled_once(tmp_path: Path) -> None:
    """The second time the file that is there is used as it is."""
    first = compiled(tmp_path)
    made = first.stat().st_mtime_ns
    time.sleep(0.01)
    assert compiled(tmp_path) == first
    assert first.stat().st_mtime_ns == made
    assert list(tmp_path.iterdir()) == [first]


def test_a_machine_without_a_compiler_is_told_which_package_to_install(tmp_path: Path) -> None:
    """One line that names the Debian packages."""
    with pytest.raises(BenchError, match="Debian packages gcc and libc6-dev"):
        compiled(tmp_path / "new", {"PATH": str(tmp_path)})
