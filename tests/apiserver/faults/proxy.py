"""A proxy between an operator and the API server that everything passes through, and where things go wrong as told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from tests.apiserver.control_plane import ControlPlane

Json = dict[str, Any]
HOP_BY_HOP = {"connection", "content-length", "content-encoding", "host", "keep-alive", "transfer-encoding", "upgrade"}


class Fault(StrEnum):
    """What happens to one call."""

    KILL_BEFORE = "killed before"
    """The operator is killed; the API server never sees the call."""
    KILL_AFTER = "killed after"
    """The API server did what was asked, and the operator is killed."""
    CONFLICT = "409"
    THROTTLED = "429 with Retry-After"
    ERROR = "500"
    CUT_BEFORE = "cut before"
    """The connection ends; the API server never sees the call."""
    CUT_AFTER = "cut after"
    """The API server did what was asked, and the connection ends without an answer."""
    TIMEOUT = "time-out"
    """The API server did what was asked, and no answer comes for as long as the operator waits."""

    @property
    def kills(self) -> bool:
        """Whether it ends the operator's process."""
        return self in (Fault.KILL_BEFORE, Fault.KILL_AFTER)

    @property
    def comes_after(self) -> bool:
        """Whether the API server does what was asked."""
        return self in (Fault.KILL_AFTER, Fault.CUT_AFTER, Fault.TIMEOUT)


ANSWERS = {Fault.CONFLICT: 409, Fault.THROTTLED: 429, Fault.ERROR: 500}


@dataclass(frozen=True)
class Call:
    """One request of the operator."""

    method: str
    path: str
    query: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f"?{self.query}" if self.query else "")

    @property
    def watches(self) -> bool:
        """Whether it is answered by a stream."""
        return "watch=true" in self.query

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET"

    def is_about(self, name: str) -> bool:
        """Whether it names an object or a selector that begins with `name`."""
        return f"/{name}" in self.path or f"%3D{name}" in self.query or f"={name}" in self.query


Plan = Callable[[Call], Fault | None]
Lines = AsyncIterator[bytes]
Stream = Callable[[Call, Lines], Lines]


async def untouched(_call: Call, lines: Lines) -> Lines:
    """A watch as the API server sends it."""
    async for line in lines:
        yield line


class Proxy:
    """Listens on plain HTTP on loopback; `plan` and `stream` may be replaced at any time."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.plan: Plan = lambda _call: None
        self.stream: Stream = untouched
        self.kill: Callable[[], None] = lambda: None
        self.calls: list[Call] = []
        self.port = 0

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig for whoever is to be on the other side."""
        config = yaml.safe_load(self._plane.kubeconfig.read_text())
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        path.write_text(yaml.safe_dump(config))
        return path

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve in a thread of its own while the block runs."""
        loop, started, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
        task = threading.Thread(target=lambda: loop.run_until_complete(self._serve(started, ended)), daemon=True)
        task.start()
        assert started.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(ended.set)
            task.join(10)

    async def _serve(self, started: threading.Event, ended: asyncio.Event) -> None:
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(self._plane.url, connector=connector, timeout=timeout) as self._upstream:
            app = web.Application(client_max_size=8 << 20)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            started.set()
            await ended.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query_string)
        body = await request.read()
        self.calls.append(call)
        fault = self.plan(call)
        if fault in ANSWERS:
            return _answer(fault)
        if fault and not fault.comes_after:
            return self._cut(request, fault)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        headers["accept-encoding"] = "identity"
        async with self._upstream.request(
            request.method, request.raw_path, data=body or None, headers=headers
        ) as answer:
            passed = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
            if call.watches and answer.status == HTTPStatus.OK and fault is None:
                return await self._stream(request, call, answer, passed)
            content = b"" if call.watches and fault else await answer.read()
        if fault is Fault.TIMEOUT:
            await asyncio.sleep(600)
        if fault:
            return self._cut(request, fault)
        return web.Response(status=answer.status, body=content, headers=passed)

    async def _stream(
        self, request: web.Request, call: Call, answer: aiohttp.ClientResponse, headers: Json
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async for line in self.stream(call, _lines(answer)):
                await response.write(line)
        return response

    def _cut(self, request: web.Request, fault: Fault) -> web.Response:
        if fault.kills:
            self.kill()
        if request.transport:
            request.transport.abort()
        return web.Response()


async def _lines(answer: aiohttp.ClientResponse) -> Lines:
    buffer = b""
    async for chunk in answer.content.iter_any():
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"


def _answer(fault: Fault) -> web.Response:
    """What the API server says in such a case."""
    code = ANSWERS[fault]
    reason = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError"}[code]
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "injected", "reason": reason}
    headers = {"Retry-After": "1"} if fault is Fault.THROTTLED else {}
    return web.json_response(status | {"code": code}, status=code, headers=headers)
