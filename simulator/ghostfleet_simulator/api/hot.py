"""The two completion routes without what a router, dependencies and response models cost per request.

FastAPI declares the same routes, describes them, and answers at paths that are not found here, such as those behind a
root path. Both ways lead to the same `Generating`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.generate import Generating, failure
from ghostfleet_simulator.config import Endpoint


@dataclass(frozen=True, slots=True)
class _Route:
    """What those who count by route find in the scope."""

    path: str
    endpoint: Endpoint


_ROUTES: Final = {
    path: _Route(path, endpoint)
    for path, endpoint in (("/v1/chat/completions", Endpoint.CHAT), ("/v1/completions", Endpoint.COMPLETIONS))
}


class HotRoutes:
    """ASGI middleware that answers generation requests itself."""

    def __init__(self, app: ASGIApp, generating: Generating) -> None:
        self._app = app
        self._generating = generating

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = _ROUTES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        body = await _body(receive)
        if body is None:
            return
        try:
            response = await self._generating.respond(route.endpoint, scope, body)
            await response(scope, receive, send)
        except ApiError as error:
            await failure(error)(scope, receive, send)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, send)


async def _body(receive: Receive) -> bytes | None:
    """The body of a request; None if the client went away before it had sent all of it."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)
