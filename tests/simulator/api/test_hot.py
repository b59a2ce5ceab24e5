"""The hot route and FastAPI's own answer a request alike; behind a root path it is FastAPI that answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from .conftest import Start

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Say it again, please."}]
BODIES: list[tuple[str, bytes]] = [
    (path, body if isinstance(body, bytes) else json.dumps(body).encode())
    for path, body in (
        (CHAT, {"messages": MESSAGES, "request_id": "r", "n": 2}),
        (CHAT, {"messages": MESSAGES, "request_id": "r", "stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {"messages": MESSAGES, "request_id": "r", "logprobs": True, "top_logprobs": 2, "stop": "again"}),
        (CHAT, {"messages": MESSAGES, "model": "none"}),
        (CHAT, {"messages": MESSAGES, "max_tokens": 0}),
        (CHAT, {"messages": "no list"}),
        (CHAT, {}),
        (CHAT, b"{"),
        (CHAT, b""),
        (CHAT, b"\xff\xfe"),
        (CHAT, b"[" * 100_000),
        (COMPLETION, {"prompt": ["a b c", "d e"], "request_id": "r", "echo": True}),
        (COMPLETION, {"prompt": "a b c " * 4000, "max_tokens": 2}),
        (COMPLETION, {"prompt": [9_999_999], "stream": True}),
        (COMPLETION, {"prompt": [9_999_999]}),
    )
]


def _alike(response: httpx.Response) -> tuple[Any, ...]:
    """What the two ways must have in common: everything but the time."""
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    text = response.text
    for key in ('"created":',):
        head, *rest = text.split(key)
        text = head + "".join(part.lstrip("0123456789") for part in rest)
    headers.pop("content-length", None)
    return response.status_code, headers, text


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_both_ways_answer_alike(start: Start, path: str, body: bytes) -> None:
    running = await start(http={"rootPath": "/behind"})
    headers = {"Content-Type": "application/json"}
    hot = await running.client.post(path, content=body, headers=headers)
    declared = await running.client.post("/behind" + path, content=body, headers=headers)
    assert _alike(hot) == _alike(declared)


async def test_both_ways_mind_the_media_type_and_the_method(start: Start) -> None:
    running = await start(http={"rootPath": "/behind"})
    for path in (CHAT, COMPLETION):
        hot, declared = [
            await running.client.post(prefix + path, content=b"{}", headers={"Content-Type": "text/plain"})
            for prefix in ("", "/behind")
        ]
        assert hot.status_code == 400
        assert _alike(hot) == _alike(declared)
        assert (await running.client.get(path)).status_code == 405


async def test_both_ways_answer_scrapes_alike(start: Start) -> None:
    """With the same headers and families, also where middleware has to see every request; other methods are 405."""
    for access in ({}, {"api_keys": ["secret"]}):
        running = await start(http={"rootPath": "/behind"}, **access)
        hot, declared = [await running.client.get(prefix + "/metrics") for prefix in ("", "/behind")]
        assert hot.status_code == declared.status_code == 200
        heads = [_alike(answer)[1] for answer in (hot, declared)]
        assert heads[0] == heads[1]
        families = [[line for line in answer.text.splitlines() if line[0] == "#"] for answer in (hot, declared)]
        assert families[0] == families[1]
        assert (await running.client.post("/metrics")).status_code == 405


async def test_answers_of_both_ways_are_counted_under_their_route(start: Start) -> None:
    running = await start(http={"rootPath": "/behind"})
    for prefix in ("", "/behind"):
        await running.post(prefix + CHAT, {"messages": MESSAGES, "max_tokens": 1})
    assert await running.value(f'http_requests_total{{handler="{CHAT}",method="POST",status="2xx"}}') == 2


async def test_a_body_in_pieces_is_read_whole_and_one_that_ends_early_leaves_nothing_behind(start: Start) -> None:
    running = await start()
    body = json.dumps({"messages": MESSAGES, "max_tokens": 2}).encode()

    async def pieces() -> Any:
        for index in range(0, len(body), 7):
            yield body[index : index + 7]
            await asyncio.sleep(0)

    response = await running.client.post(CHAT, content=pieces(), headers={"Content-Type": "application/json"})
    assert response.json()["usage"]["completion_tokens"] == 2
    host, port = running.client.base_url.host, running.client.base_url.port
    _, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{" % CHAT.encode()
    )
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.05)
    assert (running.server.running, running.server.waiting) == (0, 0)
    assert (await running.client.get("/health")).status_code == 200
