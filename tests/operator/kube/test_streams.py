"""What is known of the connections that kopf watches by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import kopf
from aiohttp import web

from ghostfleet_operator.kube.streams import DEAD_SECONDS, Streams


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def api(news: asyncio.Queue[bytes]) -> AsyncIterator[str]:
    """An API server that lists pods, refuses Services, and says on watches of pods what is put into `news`."""

    async def pods(request: web.Request) -> web.StreamResponse:
        if not request.query.get("watch"):
            return web.json_response({"items": []})
        stream = web.StreamResponse()
        await stream.prepare(request)
        while said := await news.get():
            await stream.write(said + b"\n")
        return stream

    async def services(_: web.Request) -> web.Response:
        return web.json_response({"message": "no"}, status=403)

    app = web.Application()
    app.router.add_get("/api/v1/pods", pods)
    app.router.add_get("/api/v1/namespaces/lab/pods", pods)
    app.router.add_get("/api/v1/services", services)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # aiohttp hides the port it took
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        for _ in range(3):
            news.put_nowait(b"")  # ends a watch
        await runner.cleanup()


@asynccontextmanager
async def watching(session: aiohttp.ClientSession, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
    async with session.get(f"{url}?watch=true") as response:
        yield aiter(response.content.iter_chunked(2**20))


async def test_the_age_of_a_watch_is_that_of_its_last_event_or_bookmark() -> None:
    """A watch that is begun anew and goes on in silence stays as old as it was."""
    clock, news = Clock(), asyncio.Queue[bytes]()
    streams = Streams(clock)
    async with api(news) as url:
        session = streams.session(kopf.ConnectionInfo(server=url)).aiohttp_session
        async with session:
            await (await session.get(f"{url}/api/v1/pods?limit=500")).json()
            assert streams.ages() == {"pods": 0}
            clock.now = 50
            async with watching(session, f"{url}/api/v1/pods") as parts:
                assert streams.ages() == {"pods": 50}
                news.put_nowait(b'{"type": "BOOKMARK"}')
                assert await anext(parts) == b'{"type": "BOOKMARK"}\n'
                assert streams.ages() == {"pods": 0}
            clock.now = 50 + DEAD_SECONDS
            async with watching(session, f"{url}/api/v1/pods"):
                assert streams.trouble() is None
                clock.now += 1
                assert streams.trouble() == f"nothing was heard of pods for {DEAD_SECONDS + 1:.0f} s"
    assert streams.operations == {("list", "pods"): 1, ("watch", "pods"): 2}
    assert not +streams.failures


async def test_of_several_namespaces_the_most_silent_one_counts() -> None:
    clock = Clock()
    streams = Streams(clock)
    async with api(asyncio.Queue()) as url:
        session = streams.session(kopf.ConnectionInfo(server=url)).aiohttp_session
        await (await session.get(f"{url}/api/v1/namespaces/lab/pods")).json()
        clock.now = 9
        await (await session.get(f"{url}/api/v1/pods")).json()
        await session.close()
    assert streams.ages() == {"pods": 9}


async def test_refusals_and_lost_connections_are_counted_and_are_no_sign_of_life() -> None:
    streams = Streams(Clock())
    async with api(asyncio.Queue()) as url:
        session = streams.session(kopf.ConnectionInfo(server=url)).aiohttp_session
        assert (await session.get(f"{url}/api/v1/services")).status == 403
    with suppress(aiohttp.ClientConnectionError):
        await session.get(f"{url}/api/v1/services?watch=true")
    await session.close()
    assert streams.failures == {("list", "services"): 1, ("watch", "services"): 1}
    assert streams.ages() == {}
