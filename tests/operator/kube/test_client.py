"""The client against a server that lets a login expire, or does not answer."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from ghostfleet_operator.kube.client import KubeClient
from ghostfleet_operator.kube.login import Login
from ghostfleet_operator.reconcile.api import CONFIG_MAP, KubeError

REQUESTS = 40


@dataclass(frozen=True, slots=True)
class Logins(Login):
    """Another token at each login."""

    host: str = ""
    made: tuple[str, ...] | list[str] = ()

    async def configuration(self) -> Configuration:
        settings = Configuration(host=self.host)
        token = f"token-{len(self.made)}"
        assert isinstance(self.made, list)
        self.made.append(token)
        settings.api_key = {"BearerToken": token}
        settings.api_key_prefix = {"BearerToken": "Bearer"}
        return settings


async def no_limit() -> None:
    """A write budget without an end."""


@asynccontextmanager
async def logged_in(
    answer: Callable[[web.Request], Awaitable[web.Response]], write_seconds: float = math.inf
) -> AsyncIterator[tuple[KubeClient, Logins]]:
    """A client of an API server that answers everything in the same way."""
    app = web.Application()
    app.router.add_route("*", "/api/v1/namespaces/lab/configmaps/{name}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    logins = Logins(host=f"http://127.0.0.1:{runner.addresses[0][1]}", made=[])
    client = KubeClient(logins, no_limit, lambda: write_seconds)
    try:
        yield client, logins
    finally:
        await client.close()
        await runner.cleanup()


async def test_an_expired_login_fails_no_request_whatever_others_are_under_way() -> None:
    """One request logs in afresh; those that use the old connection meanwhile are asked again, too."""
    seen: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        number = sum(seen.values())
        token = request.headers["authorization"]
        seen[token] += 1
        await asyncio.sleep(0.002 * (number % 7))
        if token == "Bearer token-0":
            return web.json_response({"message": "Unauthorized"}, status=401)
        return web.json_response({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}})

    async with logged_in(answer) as (client, logins):
        found = await asyncio.gather(*(client.get(CONFIG_MAP, "lab", f"n{n}") for n in range(REQUESTS)))
    assert [obj is not None for obj in found] == [True] * REQUESTS
    assert list(logins.made) == ["token-0", "token-1"]
    assert client.requests == {("GET", "configmaps", 200): REQUESTS}


async def test_that_no_answer_came_is_said_in_words() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "lab"}}
    async with logged_in(hang, write_seconds=0.1) as (client, _):
        with pytest.raises(KubeError, match=r"^PATCH /api/v1/namespaces/lab/configmaps/x: no answer in time$"):
            await client.apply(child)
