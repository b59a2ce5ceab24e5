"""The two completion routes and `/metrics` without what a router, dependencies and response models cost per request.

FastAPI declares the same routes, describes them, and answers at paths that are not found here, such as those behind a
root path. Both ways lead to the same `Generating` and the same exposition.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ghostfleet_simulator.api.direct import Direct
from ghostfleet_simulator.api.errors import ApiError, internal_error, unreadable_body
from ghostfleet_simulator.api.generate import Generating, failure
from ghostfleet_simulator.api.instrumentation import Instrumented
from ghostfleet_simulator.config import Endpoint
from ghostfleet_simulator.metrics.render import CONTENT_TYPE
from ghostfleet_simulator.runtime.server import SimulatedServer

_log = logging.getLogger("ghostfleet.api")


@dataclass(frozen=True, slots=True)
class _Route:
    """What those who count by route find in the scope."""

    path: str
    endpoint: Endpoint


_ROUTES: Final = {
    path: _Route(path, endpoint)
    for path, endpoint in (("/v1/chat/completions", Endpoint.CHAT), ("/v1/completions", Endpoint.COMPLETIONS))
}


_METRICS: Final = "/metrics"


def _is_scrape(scope: Scope) -> bool:
    return (scope["type"], scope.get("method"), scope.get("path")) == ("http", "GET", _METRICS)


class HotRoutes:
    """ASGI middleware that answers generation requests and scrapes itself."""

    def __init__(self, app: ASGIApp, generating: Generating, server: SimulatedServer) -> None:
        self._app = app
        self._generating = generating
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = _ROUTES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            app = exposition(self._server) if _is_scrape(scope) else self._app
            await app(scope, receive, send)
            return
        scope["route"] = route
        try:
            body = await _body(receive)
            response = await self._generating.respond(route.endpoint, scope, body)
            await response(scope, receive, send)
        except ApiError as error:
            await failure(error)(scope, receive, send)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, send)


def exposition(server: SimulatedServer) -> Response:
    """The answer to a scrape."""
    return Response(server.metrics.render(), headers={"content-type": CONTENT_TYPE})


class Shortcut:
    """Generation requests and scrapes past the middleware that would do nothing to them."""

    def __init__(self, server: SimulatedServer, generating: Generating) -> None:
        self._app = Instrumented(HotRoutes(_nowhere, generating, server), server)
        self._server = server

    def takes(self, scope: Scope) -> bool:
        """Whether it answers a request: a POST to a generation route, or a scrape, that is not a browser's."""
        if scope["type"] != "http" or b"origin" in dict(scope["headers"]):
            return False
        if scope["method"] == "POST":
            return scope["path"] in _ROUTES
        return _is_scrape(scope) and not self._server.faults.armed  # failures may befall scrapes, too

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = False

        async def varying(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # What CORS middleware says of every answer.
                message["headers"].append((b"vary", b"Origin"))
            await send(message)

        try:
            await self._app(scope, receive, varying)
        except Exception as error:
            _log.error("%s failed: %r", scope["path"], error)
            if not started:
                await failure(internal_error())(scope, receive, send)
            raise


class Application:
    """FastAPI with a shortcut around it, made when the first request comes that needs it.

    It takes 0.3 MiB and some 20 ms to make, and most of a thousand servers that are only scraped never need it.
    """

    def __init__(
        self, make: Callable[[], FastAPI], shortcut: Shortcut | None = None, direct: Direct | None = None
    ) -> None:
        """Where middleware has to see all requests, there is no `shortcut` and no `direct`."""
        self.direct = direct
        """Takes plain requests before they are made ASGI's."""
        self._make = make
        self._shortcut = shortcut
        """Takes the requests it can."""
        self._whole: FastAPI | None = None

    def prepare(self) -> FastAPI:
        """The application with all its routes; made now unless it was before."""
        if self._whole is None:
            self._whole = self._make()
        return self._whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._shortcut is not None and self._shortcut.takes(scope):
            await self._shortcut(scope, receive, send)
        else:
            await self.prepare()(scope, receive, send)


async def _nowhere(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise LookupError(scope["path"])


async def _body(receive: Receive) -> bytes:
    """The body of a request; `HTTPException`, for the metrics, if the client leaves before it has sent all of it."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise unreadable_body()
        part: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)
