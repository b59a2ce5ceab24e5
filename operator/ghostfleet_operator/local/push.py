"""Hot reload of the servers of a laptop fleet, over httpx: every one of them is told or asked in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import httpx

from ghostfleet_operator.rollout import (
    CONCURRENCY,
    CONNECT_SECONDS,
    TOTAL_SECONDS,
    Ack,
    Answer,
    Send,
    Target,
    Unanswered,
    encoded,
    observe_one,
    push_one,
)
from ghostfleet_simulator.document import Document


def admin_client() -> httpx.AsyncClient:
    """A client for `push` and `observe`: no proxies from the environment, idle connections kept for a minute."""
    limits = httpx.Limits(max_connections=2 * CONCURRENCY, max_keepalive_connections=CONCURRENCY, keepalive_expiry=60)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS), limits=limits, trust_env=False
    )


async def push(targets: Iterable[Target], document: Document, *, client: httpx.AsyncClient) -> list[Ack]:
    """Put `document` to every target; one `Ack` each, in the order of the targets, as `push_one` has it."""
    body, send = encoded(document), over_httpx(client)
    return await _each(targets, lambda target: push_one(target, document, body, send))


async def observe(targets: Iterable[Target], *, client: httpx.AsyncClient) -> list[Ack]:
    """Ask every target what it runs; one `Ack` each, in their order, without a reason where it answered."""
    send = over_httpx(client)
    return await _each(targets, lambda target: observe_one(target, send))


def over_httpx(client: httpx.AsyncClient) -> Send:
    """Requests by an httpx client."""

    async def send(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        try:
            answer = await client.request(method, url, headers=dict(headers), content=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            again = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout))
            timeout = isinstance(error, httpx.TimeoutException)
            raise Unanswered(str(error) or type(error).__name__, timeout=timeout, again=again) from None
        return Answer(answer.status_code, answer.content)

    return send


async def _each(targets: Iterable[Target], call: Callable[[Target], Awaitable[Ack]]) -> list[Ack]:
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(target: Target) -> Ack:
        async with slots:
            return await call(target)

    return list(await asyncio.gather(*map(one, targets)))
