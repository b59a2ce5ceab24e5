"""The two generation endpoints: a body comes in, is judged, perhaps refused or made to fail, and answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from ghostfleet_simulator.api import preflight, schema
from ghostfleet_simulator.api.admission import check_admission
from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import ApiError, paused
from ghostfleet_simulator.api.injected import FAULT_HEADER, error_of, not_understood
from ghostfleet_simulator.api.mishap import Mishap
from ghostfleet_simulator.api.preflight import Facts
from ghostfleet_simulator.api.protocol import connection_of
from ghostfleet_simulator.api.requests import CHAT, COMPLETION, ChatCompletionRequest, CompletionRequest
from ghostfleet_simulator.api.routes import ERRORS, off_loop_if_large
from ghostfleet_simulator.api.streaming import EventStream
from ghostfleet_simulator.api.whole import WholeAnswer
from ghostfleet_simulator.config import Endpoint, FailureType
from ghostfleet_simulator.faults.forced import ForcedInvalid
from ghostfleet_simulator.runtime.process_faults import crash
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Work

R = TypeVar("R", ChatCompletionRequest, CompletionRequest)


def generation(server: SimulatedServer, facts: Facts) -> APIRouter:
    """The generation routes of `server`."""
    router = APIRouter()

    async def answer(
        request: Request, endpoint: Endpoint, parser: Parser[R], judge: Callable[[R, Facts, Mapping[str, str]], Work]
    ) -> Response:
        arrival_us = server.now_us()
        body = await request.body()
        parsed = await off_loop_if_large(body, parser.parse, body, request.headers.get("content-type", ""))
        model = parsed.model or facts.aliases[0]
        fault = None
        if server.faults.armed:
            try:
                fault = server.faults.decide(endpoint, model, request.headers.getlist)
            except ForcedInvalid as error:
                return failure(not_understood(error))
        if fault is not None and (told := error_of(fault, model)):
            server.metrics.on_fault(fault.type, request.headers.get("x-request-id", ""), model)
            return failure(*told)
        facts.check_model(parsed.model)
        check_admission(server, parsed.n or 1)
        work = await off_loop_if_large(body, judge, parsed, facts, request.headers)
        if server.standby.refuses and work.rejection is None:
            server.metrics.on_refused(work.choices)
            work = replace(work, rejection=paused(streamed=work.stream))
        response = EventStream if work.stream else WholeAnswer
        if fault is None or work.rejection is not None:
            return response(server, work, arrival_us, {})
        server.metrics.on_fault(fault.type, work.id, work.model)
        if fault.type is FailureType.CRASH and not fault.tokens:
            crash(fault)
        mishap = Mishap(fault, server.held, connection_of(request.scope))
        return response(server, work, arrival_us, {FAULT_HEADER: fault.type.value}, mishap)

    @router.post(
        "/v1/chat/completions",
        response_model=schema.ChatCompletionResponse,
        responses={**ERRORS, 200: _streamed(schema.ChatCompletionStreamResponse)},
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of events."""
        return await answer(request, Endpoint.CHAT, CHAT, preflight.chat)

    @router.post(
        "/v1/completions",
        response_model=schema.CompletionResponse,
        responses={**ERRORS, 200: _streamed(schema.CompletionStreamResponse)},
    )
    async def completions(request: Request) -> Response:
        """Continue one or more prompts, whole or as a stream of events."""
        return await answer(request, Endpoint.COMPLETIONS, COMPLETION, preflight.completion)

    return router


def failure(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """The response that an error is."""
    return Response(error.to_json(), error.status, headers, media_type="application/json")


def _streamed(chunk: type[BaseModel]) -> dict[str, Any]:
    return {
        "model": chunk,
        "description": "A JSON body with `stream: false`, events that hold JSON chunks with `stream: true`.",
    }
