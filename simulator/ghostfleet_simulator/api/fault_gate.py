"""Injected failures of the endpoints beside generation: scrapes, probes, the model list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ghostfleet_simulator.api.generate import failure as failure_response
from ghostfleet_simulator.api.injected import cut_short, end_connection, error_of, hang, named, not_understood
from ghostfleet_simulator.api.protocol import connection_of
from ghostfleet_simulator.config import Ending, Endpoint, Failure, FailureType
from ghostfleet_simulator.faults.forced import ForcedInvalid
from ghostfleet_simulator.runtime.server import SimulatedServer

_ENDPOINTS: Final = {
    "/v1/models": Endpoint.MODELS,
    "/tokenize": Endpoint.TOKENIZE,
    "/detokenize": Endpoint.DETOKENIZE,
    "/health": Endpoint.HEALTH,
    "/ping": Endpoint.HEALTH,
    "/metrics": Endpoint.METRICS,
    "/version": Endpoint.VERSION,
    "/load": Endpoint.LOAD,
}


@dataclass(frozen=True, slots=True)
class _Route:
    """What the router leaves in the scope for those who count by route; here a request may not come to it."""

    path: str


class FaultGate:
    """ASGI middleware that lets requests to these endpoints fail as the failures in force say."""

    def __init__(self, app: ASGIApp, server: SimulatedServer) -> None:
        self._app = app
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        server = self._server
        path = ""
        if server.faults.armed and scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        endpoint = _ENDPOINTS.get(path)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        try:
            failure = server.faults.decide(endpoint, "", Headers(scope=scope).getlist)
        except ForcedInvalid as error:
            await failure_response(not_understood(error))(scope, receive, send)
            return
        if failure is None:
            await self._app(scope, receive, send)
            return
        server.metrics.count_fault(failure.type)
        scope["route"] = _Route(path)
        if told := error_of(failure, server.config.model.aliases[0]):
            await failure_response(*told)(scope, receive, send)
        else:
            await self._perform(failure, scope, receive, send)

    async def _perform(self, failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        match failure.type:
            case FailureType.HANG:
                await hang(self._server.held, failure, connection)
                await self._app(scope, receive, _named(failure, send))
            case FailureType.RESET:
                await end_connection(connection, reset=True)
            case FailureType.TRUNCATE:
                kept = _Kept()
                await self._app(scope, receive, _named(failure, kept))
                ending = failure.ending or Ending.CLEAN
                await cut_short(connection, send, kept.status, kept.headers, bytes(kept.body), ending)
            case FailureType.CRASH:
                self._server.crash(failure)
                await connection.gone()


class _Kept:
    """Takes a response instead of a client."""

    def __init__(self) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


def _named(failure: Failure, send: Send) -> Send:
    async def naming(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *named(failure)]}
        await send(message)

    return naming
