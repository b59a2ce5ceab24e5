"""Push and observe against real HTTP servers on loopback that answer as an admin API does, or badly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from ghostfleet_operator import rollout
from ghostfleet_operator.local.push import admin_client, observe, push
from ghostfleet_operator.rollout import Ack, Target
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document, InForce, Refused
from ghostfleet_simulator.problems import InvalidInput

Responder = Callable[[str, str, dict[str, str], bytes], tuple[int, object] | None]


def document(revision: int, ttft: str = "20ms") -> Document:
    config = ServerConfig.model_validate({"model": {"name": "m"}, "profile": {"simple": {"timeToFirstToken": ttft}}})
    return Document.of(config, revision)


@contextlib.asynccontextmanager
async def serving(respond: Responder) -> AsyncIterator[str]:
    """A bare HTTP/1.1 server; `respond(method, path, headers, body)` gives status and JSON, or None to hang up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request, *lines = head.strip().split("\r\n")
                method, path, _ = request.split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                answer = respond(method, path, headers, body)
                if answer is None:
                    break
                payload = json.dumps(answer[1]).encode()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (answer[0], len(payload), payload))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class Admin:
    """What the admin API of one server does with documents, by the project's own rule (`InForce`)."""

    def __init__(self, start: Document, token: str = "secret") -> None:
        self.in_force = InForce.start(start)
        self.token = token
        self.puts = 0

    def __call__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object] | None:
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": {"message": "no"}}
        if path == "/admin/config" and method == "PUT":
            self.puts += 1
            try:
                self.in_force = self.in_force.offer(Document.parse(json.loads(body)))
            except Refused as error:
                return 409, {"error": {"message": str(error)}}
            except InvalidInput as error:
                return 422, {
                    "error": {
                        "message": "x",
                        "problems": [{"path": p.path, "message": p.message} for p in error.problems],
                    }
                }
        return 200, {"revision": self.in_force.revision, "hash": self.in_force.document.hash}


async def one_push(url: str, doc: Document, token: str = "secret") -> Ack:
    async with admin_client() as client:
        return (await push([Target("pod", url, token)], doc, client=client))[0]


async def test_a_push_is_acknowledged_by_revision_and_hash_and_repeats_harmlessly() -> None:
    admin, new = Admin(document(1)), document(2, "30ms")
    async with serving(admin) as url:
        for _ in range(2):
            ack = await one_push(url, new)
            assert ack == Ack(Target("pod", url, "secret"), 2, new.hash, None)
            assert ack.runs(new)
    assert admin.in_force.document == new


async def test_observe_tells_what_runs() -> None:
    running = document(7)
    async with serving(Admin(running)) as url, admin_client() as client:
        acks = await observe([Target("pod", url, "secret")], client=client)
    assert [(a.revision, a.hash, a.reason) for a in acks] == [(7, running.hash, None)]


async def test_an_older_document_is_refused_with_the_servers_words_and_its_revision() -> None:
    running = document(9, "1ms")
    async with serving(Admin(running)) as url:
        ack = await one_push(url, document(3))
    assert (ack.revision, ack.hash) == (9, running.hash)
    assert ack.reason == "refused: revision 3 is older than revision 9, which is in force (409)"


async def test_an_invalid_document_is_refused_with_the_fields_path() -> None:
    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        if method == "PUT":
            return 422, {
                "error": {"message": "bad", "problems": [{"path": "config.profile", "message": "unknown field"}]}
            }
        return 200, {"revision": 1, "hash": "sha256:old"}

    async with serving(respond) as url:
        ack = await one_push(url, document(2))
    assert ack.reason == "refused: config.profile: unknown field (422)"
    assert ack.revision == 1


async def test_a_wrong_token_is_said_so() -> None:
    async with serving(Admin(document(1))) as url:
        ack = await one_push(url, document(2), token="other")
    assert ack.reason == "refused: the server does not accept the admin token (401)"


async def test_where_a_token_is_refused_the_others_are_tried() -> None:
    """While tokens change a server has the old ones for a while; one that was accepted is not followed by another."""
    new, asked = document(2), list[str]()
    admin = Admin(document(1), "older")

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object] | None:
        asked.append(headers["authorization"].removeprefix("Bearer "))
        return admin(method, path, headers, body)

    async with serving(respond) as url, admin_client() as client:
        target = Target("pod", url, "newer", ("older", "oldest"))
        assert (await observe([target], client=client))[0].reason is None
        assert asked == ["newer", "older"]
        assert (await push([target], new, client=client))[0].runs(new)
        admin.token = "unknown"
        asked.clear()
        (ack,) = await observe([target], client=client)
    assert asked == ["newer", "older", "oldest"]
    assert ack.reason == "refused: the server does not accept the admin token (401)"


async def test_a_server_that_says_yes_but_runs_something_else_is_not_in_sync() -> None:
    async with serving(lambda *_: (200, {"revision": 2, "hash": "sha256:other"})) as url:
        ack = await one_push(url, document(2))
    assert not ack.runs(document(2))
    assert ack.reason is not None
    assert "sha256:other" in ack.reason


async def test_a_server_that_says_yes_and_never_applies_is_found_out() -> None:
    new = document(2)

    def respond(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        said = {"revision": 2, "hash": new.hash} if method == "PUT" else {"revision": 1, "hash": "sha256:old"}
        return 200, said

    async with serving(respond) as url:
        ack = await one_push(url, new)
    assert (ack.revision, ack.hash) == (1, "sha256:old")
    assert str(ack.reason).startswith("said yes, but runs revision 1 with hash sha256:old")


async def test_what_ended_badly_is_counted() -> None:
    requests = {"stop": 5, "length": 2, "abort": 1, "error": 1, "fault": 3, "promptTokens": 900}
    state = {"revision": 1, "hash": "sha256:x", "requests": requests}
    async with serving(lambda *_: (200, state)) as url, admin_client() as client:
        (ack,) = await observe([Target("pod", url, "")], client=client)
    assert (ack.requests, ack.errors) == (12, 4)


@pytest.mark.parametrize(
    "answer", [(200, {}), (200, []), (200, {"revision": True, "hash": "x"}), (200, {"revision": 1})]
)
async def test_an_answer_that_is_no_admin_api_is_a_reason_and_no_exception(answer: tuple[int, object]) -> None:
    async with serving(lambda *_: answer) as url:
        ack = await one_push(url, document(2))
    assert ack.reason == f"{url} tells no revision and hash: not an admin API"


async def test_a_connection_that_breaks_is_tried_again() -> None:
    admin, calls = Admin(document(1)), list[str]()

    def flaky(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object] | None:
        calls.append(path)
        return None if len(calls) < 3 else admin(method, path, headers, body)

    async with serving(flaky) as url:
        ack = await one_push(url, document(2))
    assert ack.reason is None
    assert calls == ["/admin/config"] * 3 + ["/admin/state"]


async def test_nobody_listening_is_unreachable_and_does_not_stop_the_others() -> None:
    admin, new = Admin(document(1)), document(2)
    async with serving(admin) as url, admin_client() as client:
        targets = [
            Target("gone", "http://127.0.0.1:1", ""),
            Target("odd", "http://[bad", ""),
            Target("pod", url, "secret"),
        ]
        acks = await push(targets, new, client=client)
    assert [a.target.name for a in acks] == ["gone", "odd", "pod"]
    assert [bool(a.reason and a.reason.startswith("unreachable: ")) for a in acks] == [True, True, False]
    assert acks[2].runs(new)


async def test_a_silent_server_is_a_timeout_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "TOTAL_SECONDS", 0.3)
    server = await asyncio.start_server(lambda _r, _w: asyncio.sleep(10), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    start = time.monotonic()
    ack = await one_push(url, document(2))
    server.close()
    assert ack.reason == f"timeout: no answer from {url} within 0.3 s"
    assert time.monotonic() - start < 1.5


async def test_two_hundred_servers_are_pushed_to_at_most_64_at_a_time() -> None:
    new, at_once, most = document(2), 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1
        return httpx.Response(200, json={"revision": 2, "hash": new.hash})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        acks = await push([Target(str(n), f"http://10.0.0.{n}:9101", "t") for n in range(200)], new, client=client)
    assert [a.target.name for a in acks] == [str(n) for n in range(200)]
    assert all(a.runs(new) for a in acks)
    assert most == 64
