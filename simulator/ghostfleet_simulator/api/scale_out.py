"""Routes by which prompts are rendered in one place and tokens generated in another; and SageMaker's one route for all.

Source: vLLM 0.33 entrypoints/scale_out/*/api_router.py and entrypoints/serve/sagemaker/api_router.py.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ghostfleet_simulator.api.admission import check_admission
from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.development import json_body
from ghostfleet_simulator.api.errors import ApiError, bad_request, internal_error, paused, wrong_media_type
from ghostfleet_simulator.api.generate import Generating
from ghostfleet_simulator.api.injected import named
from ghostfleet_simulator.api.preflight import Facts
from ghostfleet_simulator.api.render import render_chat, render_completion
from ghostfleet_simulator.api.requests import CHAT, COMPLETION
from ghostfleet_simulator.api.routes import ERRORS, off_loop_if_large
from ghostfleet_simulator.api.token_answers import TokenAnswers
from ghostfleet_simulator.api.token_requests import GENERATE, rendered_json, work_of
from ghostfleet_simulator.config import Endpoint
from ghostfleet_simulator.runtime.server import SimulatedServer

_INVOKED: Final[tuple[tuple[Endpoint, str, Parser[Any]], ...]] = (
    (Endpoint.CHAT, "ChatCompletionRequest", CHAT),
    (Endpoint.COMPLETIONS, "CompletionRequest", COMPLETION),
)
"""In the order in which a body is tried."""


def scale_out(server: SimulatedServer, facts: Facts, generating: Generating) -> APIRouter:
    """The routes that render prompts and that generate from tokens."""
    router = APIRouter()
    _render(router, facts)

    @router.post("/inference/v1/generate", responses=ERRORS)
    async def generate(request: Request) -> Response:
        """Tokens in, tokens out."""
        arrival_us = server.now_us()
        body = await request.body()
        parsed = await off_loop_if_large(body, GENERATE.parse, body, request.headers.get("content-type", ""))
        fault = generating.fault(Endpoint.GENERATE, parsed.model, request.scope) if server.faults.armed else None
        if isinstance(fault, Response):
            return fault
        facts.check_model(parsed.model)
        check_admission(server, 1)
        work = work_of(parsed, facts, request.headers, server.config.limits.max_num_seqs)
        if server.standby.refuses and work.rejection is None:
            server.metrics.on_refused(work.choices)
            work = replace(work, rejection=paused(streamed=work.stream))
        if fault is None or work.rejection is not None:
            return TokenAnswers(server, work, parsed.output_mode, arrival_us)
        mishap = generating.mishap(fault, work, request.scope)
        return TokenAnswers(server, work, parsed.output_mode, arrival_us, named(fault), mishap)

    @router.post("/inference/v1/abort_requests", response_class=Response)
    async def abort_requests(request: Request) -> Response:
        """End requests by their ids; the answer does not wait for it."""
        body = await json_body(request, "JSON decode error: {error}")
        if not isinstance(body, dict):
            raise internal_error(f"'{type(body).__name__}' object has no attribute 'get'")
        ids = body.get("request_ids")
        if ids is None:
            raise ApiError(400, "Bad Request", "Missing 'request_ids' in request body")
        wanted = [ids] if isinstance(ids, str) else ids
        if isinstance(wanted, list):
            asyncio.get_running_loop().call_soon(server.abort, [one for one in wanted if isinstance(one, str)])
        return Response()

    return router


def _render(router: APIRouter, facts: Facts) -> None:
    @router.post("/v1/chat/completions/render", responses=ERRORS)
    async def render_chat_completion(request: Request) -> Response:
        """The request for `/inference/v1/generate` that a chat comes to."""
        body = await request.body()

        def work() -> bytes:
            parsed = CHAT.parse(body, request.headers.get("content-type", ""))
            return rendered_json(render_chat(parsed, facts, request.headers))

        return Response(await off_loop_if_large(body, work), media_type="application/json")

    @router.post("/v1/completions/render", responses=ERRORS)
    async def render_completions(request: Request) -> Response:
        """The requests for `/inference/v1/generate` that a completion comes to."""
        body = await request.body()

        def work() -> bytes:
            parsed = COMPLETION.parse(body, request.headers.get("content-type", ""))
            return rendered_json(render_completion(parsed, facts, request.headers))

        return Response(await off_loop_if_large(body, work), media_type="application/json")


def sagemaker(generating: Generating) -> APIRouter:
    """SageMaker's route: a chat or a completion, as the body has it."""
    router = APIRouter()

    @router.post("/invocations", responses=ERRORS)
    async def invocations(request: Request) -> Response:
        """A chat or a completion."""
        if request.headers.get("content-type", "").lower().partition(";")[0] != "application/json":
            raise wrong_media_type()
        body = await request.body()
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "Bad Request", f"JSON decode error: {error}") from None
        for endpoint, _, parser in _INVOKED:
            try:
                await off_loop_if_large(body, parser.parse, body, "application/json")
            except ApiError as error:
                if error.type == "Bad Request":  # it does not fit this model; contradictions are answered at once
                    continue
                raise
            return await generating.respond(endpoint, request.scope, body)
        names = [name for _, name, _ in _INVOKED]
        raise bad_request(f"Cannot find suitable handler for request. Expected one of: {names}")

    return router
