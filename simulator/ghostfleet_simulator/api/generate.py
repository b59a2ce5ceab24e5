"""The two generation endpoints: a body comes in, is judged, perhaps refused or made to fail, and answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec.structs import replace
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from ghostfleet_simulator.api import schema
from ghostfleet_simulator.api.admission import check_admission
from ghostfleet_simulator.api.errors import ApiError, bad_request, paused
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.injected import error_of, named, not_understood
from ghostfleet_simulator.api.judging import Judged, judged_chat, judged_completion
from ghostfleet_simulator.api.mishap import Mishap
from ghostfleet_simulator.api.protocol import connection_of
from ghostfleet_simulator.api.reading import BodyReader, Job, headers_of
from ghostfleet_simulator.api.schema import ERRORS
from ghostfleet_simulator.api.streaming import EventStream
from ghostfleet_simulator.api.whole import WholeAnswer
from ghostfleet_simulator.config import Endpoint, Failure, FailureType
from ghostfleet_simulator.faults.forced import ForcedInvalid
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Work

_JOBS: Final[dict[Endpoint, Job[Judged]]] = {
    Endpoint.CHAT: judged_chat,
    Endpoint.COMPLETIONS: judged_completion,
}


class Generating:
    """Makes responses of generation requests."""

    def __init__(self, server: SimulatedServer, facts: Facts, reader: BodyReader) -> None:
        self._server = server
        self._facts = facts
        self._reader = reader

    async def respond(self, endpoint: Endpoint, scope: Scope, body: bytes) -> Response:
        """The response to a request to `endpoint`. Raises `ApiError` for a bad one, `HTTPException` for no text."""
        arrival_us = self._server.now_us()
        judged = await self._reader.read(_JOBS[endpoint], body, headers_of(scope))
        return self.answer(endpoint, scope, judged, arrival_us)

    def answer(self, endpoint: Endpoint, scope: Scope, judged: Judged, arrival_us: int) -> Response:
        """The response to a request that was read. Raises `ApiError` for one that is not served."""
        admitted = self.admitted(endpoint, scope, judged)
        if isinstance(admitted, Response):
            return admitted
        work, fault = admitted
        response = EventStream if work.stream else WholeAnswer
        if fault is None:
            return response(self._server, work, arrival_us)
        return response(self._server, work, arrival_us, named(fault), self.mishap(fault, work, scope))

    def admitted(self, endpoint: Endpoint, scope: Scope, judged: Judged) -> Response | tuple[Work, Failure | None]:
        """The work, and what is to go wrong with its answer; or the answer that a failure is. Raises `ApiError`."""
        server = self._server
        fault = self._fault(endpoint, judged.model, scope) if server.faults.armed else None
        if isinstance(fault, Response):
            return fault
        self._facts.check_model(judged.model)
        check_admission(server, judged.n)
        work = judged.checked_work()
        if server.standby.refuses and work.rejection is None:
            server.ranks.refuse(work.choices, work.rank)
            work = replace(work, rejection=paused(streamed=work.stream))
        if work.rejection is not None or fault is None:
            return work, None
        if fault.type is FailureType.CRASH and not fault.tokens:
            server.metrics.on_fault(fault.type, work.id, work.model)
            return _Crash(server, fault)
        return work, fault

    def _fault(self, endpoint: Endpoint, model: str | None, scope: Scope) -> Failure | Response | None:
        """What befalls a request for `model`; where that is an answer of its own, the answer."""
        server, headers = self._server, Headers(scope=scope)
        asked = model or self._facts.aliases[0]
        try:
            fault = server.faults.decide(endpoint, asked, headers.getlist)
        except ForcedInvalid as error:
            return failure(not_understood(error))
        if fault is not None and (told := error_of(fault, asked)):
            server.metrics.on_fault(fault.type, headers.get("x-request-id", ""), asked)
            return failure(*told)
        return fault

    def mishap(self, fault: Failure, work: Work, scope: Scope) -> Mishap:
        """What goes wrong with the answer to `work`, which will now be made."""
        server = self._server
        server.metrics.on_fault(fault.type, work.id, work.model)
        return Mishap(fault, server.held, connection_of(scope), server.outbox, server.crash)


class _Crash(Response):
    """In the place of an answer the server crashes."""

    def __init__(self, server: SimulatedServer, failure: Failure) -> None:
        super().__init__()
        self._server = server
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of an ASGI application
        self._server.crash(self._failure)
        await connection_of(scope).gone()


def generation(generating: Generating) -> APIRouter:
    """The generation routes, as FastAPI knows them; `api.hot` answers most of their requests."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        response_model=schema.ChatCompletionResponse,
        responses={**ERRORS, 200: _streamed(schema.ChatCompletionStreamResponse)},
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of events."""
        return await generating.respond(Endpoint.CHAT, request.scope, await request.body())

    @router.post(
        "/v1/completions",
        response_model=schema.CompletionResponse,
        responses={**ERRORS, 200: _streamed(schema.CompletionStreamResponse)},
    )
    async def completions(request: Request) -> Response:
        """Continue one or more prompts, whole or as a stream of events."""
        return await generating.respond(Endpoint.COMPLETIONS, request.scope, await request.body())

    return router


def failure(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """The response that an error is; as in vLLM, one that quotes half a surrogate pair becomes another one."""
    try:
        body = error.to_json()
    except UnicodeEncodeError as unencodable:
        error = bad_request(str(unencodable))
        body = error.to_json()
    return Response(body, error.status, headers, media_type="application/json")


def _streamed(chunk: type[BaseModel]) -> dict[str, Any]:
    return {
        "model": chunk,
        "description": "A JSON body with `stream: false`, events that hold JSON chunks with `stream: true`.",
    }
