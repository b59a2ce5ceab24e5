"""Hot reload over the admin API: give a document to running servers, and learn what each of them runs.

No Kubernetes in here: the operator and the laptop fleet use the same two calls. Nothing is ever raised because one
server cannot be reached or says no; its `Ack` says why in words.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from ghostfleet_simulator.document import Document

CONCURRENCY: Final = 64
"""Most servers that one call talks to at the same time."""

CONNECT_SECONDS: Final = 2.0
TOTAL_SECONDS: Final = 5.0
"""Time for one server in one call, every retry included."""

_ATTEMPTS: Final = 4
_FIRST_PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Target:
    """A server to talk to: its name in messages, the base URL of its admin API and the bearer token ("" for none)."""

    name: str
    admin_url: str
    token: str


@dataclass(frozen=True, slots=True)
class Ack:
    """What a server says that it runs; `reason` tells in words why that is unknown or not what was asked for."""

    target: Target
    revision: int | None
    hash: str | None
    reason: str | None

    def runs(self, document: Document) -> bool:
        """Whether the server runs exactly `document`: its revision and its hash."""
        return self.revision == document.revision and self.hash == document.hash


def admin_client() -> httpx.AsyncClient:
    """A client for `push` and `observe`: no proxies from the environment, idle connections kept for a minute."""
    limits = httpx.Limits(max_connections=2 * CONCURRENCY, max_keepalive_connections=CONCURRENCY, keepalive_expiry=60)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS), limits=limits, trust_env=False
    )


async def push(targets: Iterable[Target], document: Document, *, client: httpx.AsyncClient) -> list[Ack]:
    """Put `document` to every target; one `Ack` each, in the order of the targets.

    `reason` is None exactly where the server answered that it now runs the document. A server that refuses is asked
    what it runs instead, so that a revision ahead of the document's is seen.
    """
    body = json.dumps(document.to_json(), separators=(",", ":"), ensure_ascii=False).encode()

    async def one(target: Target) -> Ack:
        answer = await client.put(
            _url(target, "config"), content=body, headers={"content-type": "application/json", **_headers(target)}
        )
        if answer.status_code == httpx.codes.OK:
            return _judged(_reported(target, answer), document)
        refusal = _refusal(answer)
        if answer.status_code not in (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY):
            return Ack(target, None, None, refusal)
        return replace(await _state(target, client), reason=refusal)

    return await _each(targets, one)


async def observe(targets: Iterable[Target], *, client: httpx.AsyncClient) -> list[Ack]:
    """Ask every target what it runs; one `Ack` each, in their order, without a reason where it answered."""
    return await _each(targets, lambda target: _state(target, client))


def _url(target: Target, page: str) -> str:
    return f"{target.admin_url.rstrip('/')}/admin/{page}"


def _headers(target: Target) -> dict[str, str]:
    return {"authorization": f"Bearer {target.token}"} if target.token else {}


async def _state(target: Target, client: httpx.AsyncClient) -> Ack:
    answer = await client.get(_url(target, "state"), headers=_headers(target))
    if answer.status_code != httpx.codes.OK:
        return Ack(target, None, None, _refusal(answer))
    return _reported(target, answer)


async def _each(targets: Iterable[Target], call: Callable[[Target], Awaitable[Ack]]) -> list[Ack]:
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(target: Target) -> Ack:
        async with slots:
            return await _patient(target, call)

    return list(await asyncio.gather(*map(one, targets)))


async def _patient(target: Target, call: Callable[[Target], Awaitable[Ack]]) -> Ack:
    """`call`, tried again where the connection fails, until the time is up."""
    last: Exception | None = None
    pause = _FIRST_PAUSE_SECONDS
    try:
        async with asyncio.timeout(TOTAL_SECONDS):
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                    pause *= 2
                try:
                    return await call(target)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    last = error
                    if not isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)):
                        break
    except TimeoutError:
        if last is None:
            return Ack(target, None, None, f"timeout: no answer from {target.admin_url} within {TOTAL_SECONDS:g} s")
    if isinstance(last, httpx.TimeoutException):
        return Ack(target, None, None, f"timeout: {target.admin_url} did not answer in time")
    return Ack(target, None, None, f"unreachable: {target.admin_url}: {str(last) or type(last).__name__}")


def _reported(target: Target, answer: httpx.Response) -> Ack:
    body = _object(answer)
    revision, digest = body.get("revision"), body.get("hash")
    if isinstance(revision, bool) or not isinstance(revision, int) or not isinstance(digest, str):
        return Ack(target, None, None, f"{target.admin_url} tells no revision and hash: not an admin API")
    return Ack(target, revision, digest, None)


def _judged(ack: Ack, document: Document) -> Ack:
    if ack.reason or ack.runs(document):
        return ack
    asked = f"revision {document.revision} with hash {document.hash}"
    return replace(ack, reason=f"runs revision {ack.revision} with hash {ack.hash}, not {asked}")


def _refusal(answer: httpx.Response) -> str:
    """Why a server said no, with its own words where it has some."""
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "refused: the server does not accept the admin token (401)"
    error = _object(answer).get("error")
    said = error if isinstance(error, dict) else {}
    problems = said.get("problems")
    details = [p for p in problems if isinstance(p, dict)] if isinstance(problems, list) else []
    message = "; ".join(f"{p.get('path')}: {p.get('message')}" for p in details)
    message = message or str(said.get("message") or answer.reason_phrase)
    return f"refused: {message} ({answer.status_code})"


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
