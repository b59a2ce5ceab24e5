"""What every answer has in common: HTTP metrics and the headers that tell which pod answered, and by which revision."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ghostfleet_simulator.config import ServerConfig

_MOST_DIGITS: Final = 20
"""No body is as long as a number with more says; Python refuses to read one of 4,300."""
# Searched in the path, not compared with it: /v1/load_lora_adapter is left out as well, as in vLLM.
_EXCLUDED: Final = re.compile("/metrics|/health|/load|/ping|/version|/server_info")


class _Metrics(Protocol):
    def on_http(
        self, handler: str, method: str, status: int, request_bytes: int, response_bytes: int, seconds: float
    ) -> None: ...


class _State(Protocol):
    @property
    def revision(self) -> int: ...


class Observed(Protocol):
    """The server whose answers are counted."""

    @property
    def metrics(self) -> _Metrics:
        """Told of every response that ended."""

    @property
    def config(self) -> ServerConfig:
        """What the server was started with."""

    @property
    def environ(self) -> Mapping[str, str]:
        """Variables that name the pod."""

    @property
    def in_force(self) -> _State:
        """The configuration in force."""


def declared_length(headers: list[tuple[bytes, bytes]]) -> int:
    """The declared length of a body, 0 where none is: what prometheus-fastapi-instrumentator counts as its size."""
    value = next((value for name, value in headers if name == b"content-length"), b"").lstrip(b"0")
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else 0


def whereabouts(port: int, environ: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers that name the pod, as those of llm-d-inference-sim do; none where the environment names no pod."""
    named = {"pod": environ.get("POD_NAME"), "namespace": environ.get("POD_NAMESPACE") or environ.get("NAMESPACE")}
    if not named["pod"]:
        return []
    named["port"] = str(port)
    return [(f"x-inference-{what}".encode(), name.encode()) for what, name in named.items() if name]


class Instrumented:
    """ASGI middleware that counts responses as prometheus-fastapi-instrumentator 8 does: streams once they ended.

    What it adds to them are the headers that tell which pod answered, with which configuration.
    """

    def __init__(self, app: ASGIApp, server: Observed) -> None:
        self._app = app
        self._server = server
        self._whereabouts = whereabouts(server.config.listen.port, server.environ)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, sent = 500, 0
        revision = (b"x-ghostfleet-revision", b"%d" % self._server.in_force.revision)

        async def observing(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
                sent = declared_length(headers)
                message = {**message, "headers": [*headers, revision, *self._whereabouts]}
            await send(message)

        try:
            await self._app(scope, receive, observing)
        finally:
            handler = _handler(scope)
            if not _EXCLUDED.search(handler or scope["path"]):
                self._server.metrics.on_http(
                    handler or "none",
                    scope["method"],
                    status,
                    declared_length(scope["headers"]),
                    sent,
                    time.perf_counter() - began,
                )


def _handler(scope: Scope) -> str | None:
    """Path of the route that matched, its method or not."""
    route: Any = scope.get("route")
    return getattr(route, "path", None)
