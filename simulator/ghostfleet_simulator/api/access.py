"""Who may ask, and under what name an answer goes out: API keys and `X-Request-Id`.

Source: vLLM 0.33 entrypoints/serve/middleware/{authenticate,x_request_id}.py.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

GUARDED: Final = ("/v1", "/v2", "/inference", "/cohere")
"""Paths that begin so need a key; health, metrics and the tokenizer do not."""

_BODY: Final = b'{"error":"Unauthorized"}'


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


class ApiKeys:
    """ASGI middleware that answers 401 to guarded paths without one of the keys."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        # Hashes are of equal length, so that a comparison tells nothing by its time.
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def _known(self, scope: Scope) -> bool:
        scheme, _, key = _header(scope, b"authorization").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return False
        digest = hashlib.sha256(key.encode()).digest()
        found = False
        for one in self._digests:
            found |= secrets.compare_digest(digest, one)
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        guarded = scope["path"].removeprefix(scope.get("root_path", "")).startswith(GUARDED)
        if not guarded or self._known(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(_BODY)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _BODY})


class RequestIds:
    """ASGI middleware that gives every answer the `X-Request-Id` of its request, or a random one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                name = _header(scope, b"x-request-id") or uuid.uuid4().hex.encode()
                message = {**message, "headers": [*message["headers"], (b"x-request-id", name)]}
            await send(message)

        await self._app(scope, receive, naming)
