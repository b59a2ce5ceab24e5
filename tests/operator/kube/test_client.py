"""The client against a server that lets a login expire."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from aiohttp import web
from kubernetes.aio.client import Configuration

from ghostfleet_operator.kube.client import KubeClient
from ghostfleet_operator.kube.login import Login
from ghostfleet_operator.reconcile.api import CONFIG_MAP

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

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/lab/configmaps/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # aiohttp hides the port it took
    logins = Logins(host=f"http://127.0.0.1:{port}", made=[])
    client = KubeClient(logins, no_limit)
    try:
        found = await asyncio.gather(*(client.get(CONFIG_MAP, "lab", f"n{n}") for n in range(REQUESTS)))
    finally:
        await client.close()
        await runner.cleanup()
    assert [obj is not None for obj in found] == [True] * REQUESTS
    assert list(logins.made) == ["token-0", "token-1"]
    assert client.requests == {("GET", "configmaps", 200): REQUESTS}
