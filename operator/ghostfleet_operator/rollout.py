"""Hot reload over the admin API: give a document to running servers, and learn what each of them runs.

No Kubernetes in here: the operator and the laptop fleet use the same two calls, each with an HTTP client of its own.
Nothing is ever raised because one server cannot be reached or says no; its `Ack` says why in words.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final

from ghostfleet_simulator.document import Document
from ghostfleet_simulator.problems import InvalidInput

CONCURRENCY: Final = 64
"""Most servers that one call talks to at the same time."""

CONNECT_SECONDS: Final = 2.0
TOTAL_SECONDS: Final = 5.0
"""Time for one server in one call, every retry included."""

_ATTEMPTS: Final = 4
_FIRST_PAUSE_SECONDS: Final = 0.1
_FAILED: Final = ("error", "fault")
_ENDED: Final = ("stop", "length", "repetition", "abort")
"""Counters of `/admin/state`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server to talk to: its name in messages, the base URL of its admin API, the bearer token ("" for none) and
    others to try where that one is refused."""

    name: str
    admin_url: str
    token: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """What a server says that it runs; `reason` tells in words why that is unknown or not what was asked for."""

    target: Target
    revision: int | None
    hash: str | None
    reason: str | None
    refusal: int | None = None
    """HTTP status with which it refused the document."""
    requests: int = 0
    """Requests that ended since its start, and those that met an injected failure."""
    errors: int = 0
    """Those of them that ended in an error, or met an injected failure."""
    silent: str | None = None
    """Why nobody hears its KV events, in words; None where they go where they should."""

    def runs(self, document: Document) -> bool:
        """Whether the server runs exactly `document`: its revision and its hash."""
        return self.revision == document.revision and self.hash == document.hash


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer over HTTP, whatever its status."""

    status: int
    body: bytes


class Unanswered(Exception):
    """There was no answer; `again` where another attempt may well get one."""

    def __init__(self, message: str, *, timeout: bool = False, again: bool = False) -> None:
        self.timeout = timeout
        self.again = again
        super().__init__(message)


Send = Callable[[str, str, Mapping[str, str], bytes | None], Awaitable[Answer]]
"""Sends one request (method, URL, headers, body) within `TOTAL_SECONDS`; raises `Unanswered`."""


def encoded(document: Document) -> bytes:
    """A document as it is put to servers."""
    return json.dumps(document.to_json(), separators=(",", ":"), ensure_ascii=False).encode()


async def push_one(target: Target, document: Document, body: bytes, send: Send) -> Ack:
    """Put `document`, of which `body` is the encoding, to a server, and ask what it runs then.

    `reason` is None exactly where it runs the document: that it says yes is not enough. A server that refuses is asked
    too, so that a revision ahead of the document's is seen.
    """

    async def put() -> Ack:
        answer = await _ask(target, send, "PUT", "config", body)
        if answer.status == HTTPStatus.OK:
            said = _reported(target, answer)
            return said if said.reason else _judged(await _state(target, send), document)
        refusal = _refusal(answer)
        if answer.status not in (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY):
            return Ack(target, None, None, refusal, answer.status)
        return replace(await _state(target, send), reason=refusal, refusal=answer.status)

    return await _patient(target, put)


async def observe_one(target: Target, send: Send) -> Ack:
    """Ask a server what it runs; no reason where it answered."""
    return await _patient(target, lambda: _state(target, send))


async def fetch_one(target: Target, send: Send) -> Document | None:
    """The whole document that a server runs; None where it cannot be had."""
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            answer = await _ask(target, send, "GET", "config")
        return Document.parse(json.loads(answer.body)) if answer.status == HTTPStatus.OK else None
    except (Unanswered, TimeoutError, InvalidInput, ValueError):
        return None


async def _ask(target: Target, send: Send, method: str, page: str, body: bytes | None = None) -> Answer:
    """The answer to the first token that is not refused; to the last one where all are."""
    url = f"{target.admin_url.rstrip('/')}/admin/{page}"
    plain = {"content-type": "application/json"} if body else {}
    for token in (target.token, *target.others):
        answer = await send(method, url, {**plain, "authorization": f"Bearer {token}"} if token else plain, body)
        if answer.status != HTTPStatus.UNAUTHORIZED:
            break
    return answer


async def _state(target: Target, send: Send) -> Ack:
    answer = await _ask(target, send, "GET", "state")
    if answer.status != HTTPStatus.OK:
        return Ack(target, None, None, _refusal(answer))
    return _reported(target, answer)


async def _patient(target: Target, call: Callable[[], Awaitable[Ack]]) -> Ack:
    """`call`, tried again where the connection fails, until the time is up."""
    last: Unanswered | None = None
    pause = _FIRST_PAUSE_SECONDS
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                    pause *= 2
                try:
                    return await call()
                except Unanswered as error:
                    last = error
                    if not error.again:
                        break
    except TimeoutError:
        if last is None:
            return Ack(target, None, None, f"timeout: no answer from {target.admin_url} within {TOTAL_SECONDS:g} s")
    if last and last.timeout:
        return Ack(target, None, None, f"timeout: {target.admin_url} did not answer in time")
    return Ack(target, None, None, f"unreachable: {target.admin_url}: {last}")


def _reported(target: Target, answer: Answer) -> Ack:
    body = _object(answer)
    revision, digest = body.get("revision"), body.get("hash")
    if isinstance(revision, bool) or not isinstance(revision, int) or not isinstance(digest, str):
        return Ack(target, None, None, f"{target.admin_url} tells no revision and hash: not an admin API")
    counted = body.get("requests")
    counts = {key: n for key, n in counted.items() if isinstance(n, int)} if isinstance(counted, dict) else {}
    failed = sum(counts.get(key, 0) for key in _FAILED)
    ended = failed + sum(counts.get(key, 0) for key in _ENDED)
    return Ack(target, revision, digest, None, requests=ended, errors=failed, silent=_silent(body))


def _silent(body: Mapping[str, Any]) -> str | None:
    """What is in the way of the KV events of the first rank whose events do not go where they should."""
    ranks = body.get("ranks")
    for number, rank in enumerate(ranks if isinstance(ranks, list) else [body]):
        events = rank.get("kvEvents", {}) if isinstance(rank, dict) else {}
        if events is None:
            return f"rank {number} publishes no KV events"
        connections = events.get("connections", {}) if isinstance(events, dict) else {}
        made, wanted = connections.get("made", 0), connections.get("wanted", 0)
        if made < wanted:
            return f"rank {number} stands in {made} of {wanted} connections to subscribers"
    return None


def _judged(ack: Ack, document: Document) -> Ack:
    if ack.reason or ack.runs(document):
        return ack
    asked = f"revision {document.revision} with hash {document.hash}"
    return replace(ack, reason=f"said yes, but runs revision {ack.revision} with hash {ack.hash}, not {asked}")


def _refusal(answer: Answer) -> str:
    """Why a server said no, with its own words where it has some."""
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return "refused: the server does not accept the admin token (401)"
    error = _object(answer).get("error")
    said = error if isinstance(error, dict) else {}
    problems = said.get("problems")
    details = [p for p in problems if isinstance(p, dict)] if isinstance(problems, list) else []
    message = "; ".join(f"{p.get('path')}: {p.get('message')}" for p in details)
    message = message or str(said.get("message") or http.client.responses.get(answer.status, "no reason given"))
    return f"refused: {message} ({answer.status})"


def _object(answer: Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
