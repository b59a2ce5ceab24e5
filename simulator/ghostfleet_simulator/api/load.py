"""What `GET /load` tells: generation requests in progress, as vLLM counts them."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_COUNTED: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/inference/v1/generate", "/invocations"})
"""Source: the `load_aware_call`s of vLLM 0.33."""


class Load:
    """Requests in progress; stays 0 where nothing counts."""

    def __init__(self) -> None:
        self.requests = 0


class LoadTracking:
    """ASGI middleware that counts generation requests from their coming until their answer has been sent."""

    def __init__(self, app: ASGIApp, load: Load) -> None:
        self._app = app
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _COUNTED:
            await self._app(scope, receive, send)
            return
        self._load.requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._load.requests -= 1
