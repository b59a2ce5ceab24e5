"""The connections of kopf, observed: what it lists and watches, and how long each watch has been silent.

An API server sends a bookmark about once a minute on a watch on which nothing happens, so a silent one is a dead one:
a load balancer or a NAT that forgot the connection closes nothing. kopf begins anew after 70 s without a byte
(`--watch-silent-seconds`); where that does not help for `DEAD_SECONDS`, the liveness probe ends the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

import aiohttp
import kopf
from yarl import URL

from ghostfleet_operator.plan.naming import FIELD_MANAGER

DEAD_SECONDS: Final = 180.0


class Stream(NamedTuple):
    """What is watched by one connection: a resource in a namespace, or in all of them ("")."""

    resource: str
    namespace: str


class Streams:
    """Makes the sessions that kopf works with and counts what goes over them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard_at: dict[Stream, float] = {}
        self.operations: Counter[tuple[str, str]] = Counter()
        """Requests by operation (`list`, `watch`) and resource."""
        self.failures: Counter[tuple[str, str]] = Counter()
        """Those of them that got no answer, or a refusal."""

    def ages(self) -> dict[str, float]:
        """Seconds since anything came, bookmarks included, by resource; of several namespaces the longest."""
        now, found = self._clock(), dict[str, float]()
        for stream, heard_at in self._heard_at.items():
            found[stream.resource] = max(now - heard_at, found.get(stream.resource, 0.0))
        return found

    def trouble(self) -> str | None:
        """Which watches have been silent for so long that they must be dead."""
        dead = {resource: age for resource, age in self.ages().items() if age > DEAD_SECONDS}
        if not dead:
            return None
        return f"nothing was heard of {', '.join(sorted(dead))} for {max(dead.values()):.0f} s"

    def session(self, login: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """The same login as a session that is observed. kopf closes it."""
        streams = self

        class Response(aiohttp.ClientResponse):
            async def start(self, connection: Any) -> aiohttp.ClientResponse:
                await super().start(connection)
                request = _request(self.url)
                if request and self.status == HTTPStatus.OK:
                    streams.heard(request.stream, only_first=request.operation == "watch")
                    note = partial(streams.heard, request.stream)
                    self.content = cast("aiohttp.StreamReader", _Heard(self.content, note))
                return self

        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._ended)
        trace.on_request_exception.append(self._failed)
        made = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=login.as_ssl_context()),
            headers={**login.as_http_headers(), "User-Agent": FIELD_MANAGER},
            proxy=login.proxy_url,
            response_class=Response,
            trace_configs=[trace],
        )
        return kopf.AiohttpSession(server=login.server, aiohttp_session=made)

    def heard(self, stream: Stream, *, only_first: bool = False) -> None:
        """Something came. That a watch was begun is no sign of life, unless there was none before."""
        if not only_first or stream not in self._heard_at:
            self._heard_at[stream] = self._clock()

    async def _ended(self, _: Any, __: SimpleNamespace, request: aiohttp.TraceRequestEndParams) -> None:
        self._count(request.url, failed=request.response.status >= HTTPStatus.BAD_REQUEST)

    async def _failed(self, _: Any, __: SimpleNamespace, request: aiohttp.TraceRequestExceptionParams) -> None:
        self._count(request.url, failed=True)

    def _count(self, url: URL, *, failed: bool) -> None:
        if request := _request(url):
            key = (request.operation, request.stream.resource)
            self.operations[key] += 1
            self.failures[key] += failed


class _Heard:
    """The body of a response, which tells when a part of it comes."""

    def __init__(self, content: aiohttp.StreamReader, heard: Callable[[], None]) -> None:
        self._content = content
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The parts, as they come."""
        async for part in self._content.iter_chunked(size):
            self._heard()
            yield part


class _Request(NamedTuple):
    operation: str
    stream: Stream


def _request(url: URL) -> _Request | None:
    """What a URL lists or watches; None for anything else that kopf asks for."""
    root, *parts = url.path.strip("/").split("/")
    parts = parts[1:] if root == "api" else parts[2:] if root == "apis" else []
    operation = "watch" if url.query.get("watch") else "list"
    match parts:
        case ["namespaces", namespace, resource]:
            return _Request(operation, Stream(resource, namespace))
        case [resource]:
            return _Request(operation, Stream(resource, ""))
    return None
