"""Several servers in one event loop: each is there by itself, and ends by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.served import free_port

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.flags import Options
from ghostfleet_simulator.hosting.hosted import CannotListen, Hosted
from ghostfleet_simulator.problems import validated
from ghostfleet_simulator.text.tokenizer import Tokenizer

PACE = {"simple": {"timeToFirstToken": "1ms", "interTokenLatency": "10ms"}}
WITHIN = 30
"""Seconds in which what should happen has happened; the machine may be busy."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


def configuration(**more: Any) -> ServerConfig:
    listen = {"host": "127.0.0.1", "port": free_port(), "adminPort": free_port(), **more.pop("listen", {})}
    return validated(ServerConfig, {"model": {"name": "m"}, "profile": PACE, "listen": listen, **more})


@asynccontextmanager
async def running(
    tokenizer: Tokenizer, *configs: ServerConfig
) -> AsyncIterator[list[tuple[Hosted, asyncio.Task[int]]]]:
    """The servers of these configurations in this loop, serving; all have ended when the block has."""
    hosted = [Hosted(config, None, Options(), tokenizer=tokenizer, shares_process=True) for config in configs]
    tasks = [asyncio.create_task(one.run()) for one in hosted]
    for one in hosted:
        await asyncio.wait_for(one.listening.wait(), WITHIN)
    yield list(zip(hosted, tasks, strict=True))
    for one in hosted:
        one.stop()
    await asyncio.wait_for(asyncio.gather(*tasks), WITHIN)


def url(config: ServerConfig, *, admin: bool = False) -> str:
    return f"http://127.0.0.1:{config.listen.admin_port if admin else config.listen.port}"


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "Once", "max_tokens": 20, "ignore_eos": True, **more}


async def inject(client: httpx.AsyncClient, config: ServerConfig, *failures: dict[str, Any]) -> None:
    """Put failures in force."""
    answer = await client.patch(f"{url(config, admin=True)}/admin/config", json={"failures": list(failures)})
    assert answer.status_code == 200, answer.text


async def count(client: httpx.AsyncClient, config: ServerConfig) -> int:
    """Requests that a server has answered."""
    answer = await client.get(f"{url(config, admin=True)}/admin/requests")
    return int(answer.json()["total"])


async def test_servers_of_a_process_have_nothing_in_common(tokenizer: Tokenizer) -> None:
    """Configuration, readiness and counts are each server's own."""
    one, two = configuration(), configuration(model={"name": "other"})
    async with running(tokenizer, one, two), httpx.AsyncClient() as client:
        assert (await client.post(f"{url(one)}/v1/completions", json=body())).json()["model"] == "m"
        assert (await client.post(f"{url(two)}/v1/completions", json=body())).status_code == 404
        await inject(client, one, {"type": "Unready"})
        ready = [(await client.get(f"{url(config, admin=True)}/admin/ready")).status_code for config in (one, two)]
        assert ready == [503, 200]
        assert [await count(client, config) for config in (one, two)] == [1, 0]


async def test_a_server_that_stops_leaves_the_others(tokenizer: Tokenizer) -> None:
    """Its streams end with a reason and its port is free again; the other one goes on."""
    one, two = configuration(), configuration()
    async with running(tokenizer, one, two) as ((first, task), _), httpx.AsyncClient() as client:
        asked = [
            asyncio.create_task(client.post(f"{url(config)}/v1/completions", json=body(max_tokens=limit)))
            for config, limit in ((one, 2000), (two, 50))
        ]
        while first.replica.servers[0].running == 0:
            await asyncio.sleep(0.01)
        first.stop()
        assert await asyncio.wait_for(task, WITHIN) == 0
        reasons = [(await answer).json()["choices"][0]["finish_reason"] for answer in asked]
        assert reasons == ["abort", "length"]
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url(one)}/health")
        async with running(tokenizer, one):
            assert (await client.get(f"{url(one)}/health")).status_code == 200


@pytest.mark.parametrize(
    ("failure", "ask"),
    [
        ({"after": "200ms"}, {"max_tokens": 2000}),
        ({}, {}),
        ({"afterTokens": 5}, {"stream": True}),
        ({"endpoints": ["Metrics"]}, None),
    ],
    ids=["after a time", "by a request", "in mid-stream", "by a scrape"],
)
async def test_a_server_crashes_alone(
    failure: dict[str, Any], ask: dict[str, Any] | None, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connections break off, all of them, and its port is closed; the other one's stream does not notice."""
    match = {"match": {"endpoints": failure.pop("endpoints")}} if "endpoints" in failure else {}
    one, two = configuration(), configuration()
    async with running(tokenizer, one, two) as ((_, task), _), httpx.AsyncClient() as client:
        # A crash befalls the streams of everybody: this one began before there was anything wrong.
        bystander = asyncio.create_task(client.post(f"{url(one)}/v1/completions", json=body(max_tokens=2000)))
        other = asyncio.create_task(client.post(f"{url(two)}/v1/completions", json=body(max_tokens=100)))
        await asyncio.sleep(0.1)
        with caplog.at_level(logging.DEBUG):
            await inject(client, one, {"type": "Crash", "exitCode": 7, **failure, **match})
            asked = (
                client.get(f"{url(one)}/metrics")
                if ask is None
                else client.post(f"{url(one)}/v1/completions", json=body(**ask))
            )
            with pytest.raises(httpx.TransportError):
                await asked
            with pytest.raises(httpx.TransportError):
                await bystander
            assert await asyncio.wait_for(task, WITHIN) == 7
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{url(one)}/health")
        assert (await other).json()["usage"]["completion_tokens"] == 100
    assert "crashing with exit code 7: an injected failure" in caplog.messages
    assert not [record for record in caplog.records if record.exc_info], caplog.text


async def test_a_taken_port_is_told_and_releases_what_was_bound(tokenizer: Tokenizer) -> None:
    """With the address; the other port can be had again."""
    one = configuration()
    async with running(tokenizer, one):
        two = configuration(listen={"adminPort": one.listen.admin_port})
        with pytest.raises(CannotListen, match=rf"^cannot listen on 127\.0\.0\.1 port {two.listen.port} or "):
            Hosted(two, None, Options(), tokenizer=tokenizer)
        async with running(tokenizer, configuration(listen={"port": two.listen.port})):
            pass


async def test_a_server_at_rest_wakes_for_nothing(tokenizer: Tokenizer) -> None:
    """The loop of two servers that nobody asks has nothing to do, but for what a test does itself."""
    async with running(tokenizer, configuration(), configuration()):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.3)
        turns = 0
        select = loop._selector.select  # type: ignore[attr-defined]

        def counting(timeout: float | None = None) -> Any:
            nonlocal turns
            turns += 1
            return select(timeout)

        loop._selector.select = counting  # type: ignore[attr-defined]
        await asyncio.sleep(1)
        assert turns <= 3


async def test_answers_are_dated(tokenizer: Tokenizer) -> None:
    """The date of every answer moves on though nothing wakes the server for it."""
    one = configuration()
    async with running(tokenizer, one), httpx.AsyncClient() as client:
        dates = []
        for _ in range(2):
            dates.append((await client.get(f"{url(one)}/health")).headers["date"])
            await asyncio.sleep(1.1)
        assert dates[0] < dates[1] or dates[0][5:16] != dates[1][5:16]


async def test_a_unix_socket_is_removed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with running(tokenizer, configuration(listen={"uds": str(path)})):
        assert path.exists()
    assert not path.exists()
