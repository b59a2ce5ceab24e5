"""Plain requests are answered past ASGI, byte for byte as by it, and leave the connection as they found it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from .conftest import Running, Start

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Say it again, please."}]
USAGE = {"include_usage": True}
PLAIN: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": MESSAGES}),
    (CHAT, {"messages": MESSAGES, "model": "two", "max_tokens": 1}),
    (CHAT, {"messages": MESSAGES, "stream": True}),
    (CHAT, {"messages": MESSAGES, "stream": True, "stream_options": USAGE, "max_tokens": 3}),
    (CHAT, {"messages": MESSAGES, "stream": True, "max_tokens": 1}),
    (CHAT, {"messages": MESSAGES, "stream": True, "stream_options": {**USAGE, "continuous_usage_stats": True}}),
    (COMPLETION, {"prompt": "a b c", "max_tokens": 2}),
    (COMPLETION, {"prompt": [5, 6, 7], "stream": True, "stream_options": USAGE}),
]


def request(path: str, body: object, *headers: str) -> tuple[bytes, bytes]:
    """Head and body."""
    raw = json.dumps(body).encode()
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(raw)}", *headers)
    if not any(line.lower().startswith("content-type") for line in headers):
        lines += ("Content-Type: application/json",)
    return "\r\n".join(lines).encode() + b"\r\n\r\n", raw


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one answer, without the framing of its chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    if length := re.search(rb"content-length: (\d+)", head):
        return head, await reader.readexactly(int(length[1]))
    assert b"\r\ntransfer-encoding: chunked\r\n" in head
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return head, body


def timeless(told: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """An answer without what the clock says."""
    head, body = told
    return re.sub(rb"date: [^\r]*", b"", head), re.sub(rb'"created":\d+', b"", body)


async def connect(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = running.client.base_url
    return await asyncio.open_connection(url.host, url.port)


async def until(condition: Any) -> None:
    """Wait for something that will be true."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that was offered, whether it was taken."""
    from ghostfleet_simulator.api.direct import Direct  # noqa: PLC0415 - what is patched

    told: list[bool] = []
    take = Direct.take

    def telling(*arguments: Any) -> Any:
        exchange = take(*arguments)
        told.append(exchange is not None)
        return exchange

    monkeypatch.setattr(Direct, "take", telling)
    return told


@pytest.mark.parametrize(("path", "body"), PLAIN)
async def test_an_answer_past_asgi_is_the_answer_by_it(
    start: Start, taken: list[bool], path: str, body: dict[str, Any]
) -> None:
    """Headers, their order and every byte of the body; a request that comes in two pieces goes by ASGI."""
    running = await start()
    reader, writer = await connect(running)
    head, raw = request(path, body, "X-Request-Id: mine")
    writer.write(head + raw)
    direct = await answer(reader)
    assert taken == [True]
    writer.write(head)
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(raw)
    assert timeless(await answer(reader)) == timeless(direct)
    assert taken == [True]
    writer.close()
    count = await running.value(f'http_requests_total{{handler="{path}",method="POST",status="2xx"}}')
    size = await running.value(f'http_response_size_bytes_sum{{handler="{path}"}}')
    assert (count, size) == (2, 0 if body.get("stream") else 2 * len(direct[1]))
    assert await running.value(f'http_request_size_bytes_sum{{handler="{path}"}}') == 2 * len(raw)


@pytest.mark.parametrize(
    "headers",
    [
        ["Origin: http://there"],
        ["Content-Type: text/plain"],
        ["X-Session-ID: s"],
        ["endpoint-load-metrics-format: TEXT"],
        ["X-data-parallel-rank: 0"],
        ["x-vllm-priority: 1"],
    ],
)
async def test_what_asks_for_more_goes_by_asgi(start: Start, taken: list[bool], headers: list[str]) -> None:
    running = await start()
    reader, writer = await connect(running)
    writer.write(b"".join(request(CHAT, {"messages": MESSAGES, "max_tokens": 1}, *headers)))
    head, _ = await answer(reader)
    assert head.startswith(b"HTTP/1.1 400" if headers == ["Content-Type: text/plain"] else b"HTTP/1.1 200")
    assert taken == [False]
    writer.close()


@pytest.mark.parametrize(
    ("blocks", "fails"),
    [
        ({"api": {"enableRequestIdHeaders": True}}, False),
        ({"api": {"sseKeepAliveSeconds": 5}}, False),
        ({"scheduling": {"maxNumQueuedReqs": 0}}, True),
        ({"failures": [{"type": "ServerError", "probability": "100%"}]}, True),
    ],
)
async def test_a_server_of_which_more_is_asked_answers_by_asgi(
    start: Start, taken: list[bool], blocks: dict[str, Any], fails: bool
) -> None:
    running = await start(**blocks)
    response = await running.post(CHAT, {"messages": MESSAGES, "max_tokens": 1})
    assert response.is_error == fails
    assert not any(taken)


async def test_requests_that_follow_each_other_at_once_are_answered_in_order(start: Start) -> None:
    """Pipelined: the second one waits for the end of the first."""
    running = await start()
    reader, writer = await connect(running)
    bodies = [{"prompt": word, "max_tokens": 2, "stream": stream} for word, stream in (("a", True), ("b", False))]
    writer.write(b"".join(part for body in bodies for part in request(COMPLETION, body, "X-Request-Id: same")))
    first, second = await answer(reader), await answer(reader)
    assert b"text/event-stream" in first[0]
    assert first[1].endswith(b"data: [DONE]\n\n")
    assert json.loads(second[1])["object"] == "text_completion"
    writer.write(b"".join(request(COMPLETION, {"prompt": "c", "max_tokens": 1})))
    assert (await answer(reader))[0].startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_that_is_to_be_closed_is(start: Start, stream: bool) -> None:
    running = await start()
    reader, writer = await connect(running)
    writer.write(b"".join(request(COMPLETION, {"prompt": "a", "max_tokens": 3, "stream": stream}, "Connection: close")))
    head, _ = await answer(reader)
    assert b"\r\nconnection: close\r\n" in head
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_sequence(start: Start, taken: list[bool], stream: bool) -> None:
    running = await start(profile={"simple": {"timeToFirstToken": 0, "interTokenLatency": "50ms"}})
    _, writer = await connect(running)
    writer.write(
        b"".join(request(COMPLETION, {"prompt": "a b c", "max_tokens": 400, "ignore_eos": True, "stream": stream}))
    )
    await until(lambda: running.server.running == 1)
    assert taken == [True]
    writer.transport.abort()
    await until(lambda: running.server.running == 0)
    assert await running.value(f'http_requests_total{{handler="{COMPLETION}",method="POST",status="2xx"}}') == 1
    assert (await running.client.get("/health")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_with_a_request_in_the_queue_ends_the_first(
    start: Start, taken: list[bool], stream: bool
) -> None:
    running = await start(profile={"simple": {"timeToFirstToken": "200ms", "interTokenLatency": "100ms"}})
    _, writer = await connect(running)
    body = {"prompt": "a b c", "max_tokens": 400, "ignore_eos": True, "stream": stream}
    writer.write(b"".join(request(COMPLETION, body)) * 2)
    await until(lambda: running.server.running == 1)
    assert taken == [True]
    writer.write_eof()
    await until(lambda: running.server.running == 0)
    writer.close()


async def test_a_length_of_very_many_digits_is_a_length(start: Start) -> None:
    """Zeros in front of it are allowed; Python reads no number of more than 4,300 digits."""
    running = await start()
    for more in ((), ("X-Session-Id: a",)):
        reader, writer = await connect(running)
        head, body = request(COMPLETION, {"prompt": "a", "max_tokens": 1}, *more)
        writer.write(head.replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5_000) + body)
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 200")
        writer.close()
    assert await running.value(f'http_requests_total{{handler="{COMPLETION}",method="POST",status="2xx"}}') == 2


async def test_a_request_that_comes_as_the_server_shuts_down_is_aborted_at_once(
    start: Start, taken: list[bool]
) -> None:
    running = await start()
    reader, writer = await connect(running)
    await running.server.shut_down(0)
    for stream in (False, True):
        writer.write(b"".join(request(COMPLETION, {"prompt": "a", "max_tokens": 3, "stream": stream})))
        _, body = await answer(reader)
        assert b'"finish_reason":"abort"' in body
    assert taken == [True, True]
    writer.close()


async def test_an_answer_under_way_outlives_the_listener(start: Start) -> None:
    """uvicorn asks each connection to end after its answer when it stops."""
    running = await start(profile={"simple": {"timeToFirstToken": "300ms", "interTokenLatency": 1}})
    reader, writer = await connect(running)
    writer.write(b"".join(request(COMPLETION, {"prompt": "a", "max_tokens": 3, "ignore_eos": True})))
    await until(lambda: running.server.running == 1)
    for protocol in list(running.connections):
        protocol.shutdown()
    head, body = await answer(reader)
    assert b"\r\nconnection: close\r\n" in head
    assert json.loads(body)["usage"]["completion_tokens"] == 3
    assert await reader.read() == b""
    writer.close()
