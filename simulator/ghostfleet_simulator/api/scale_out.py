"""Routes by which prompts are rendered in one place and tokens generated in another; and SageMaker's one route for all.

Source: vLLM 0.33 entrypoints/scale_out/*/api_router.py and entrypoints/serve/sagemaker/api_router.py.
"""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ghostfleet_simulator.api.generate import Generating
from ghostfleet_simulator.api.injected import named
from ghostfleet_simulator.api.judging import invoked, judged_tokens, rendered_chat, rendered_completion, to_abort
from ghostfleet_simulator.api.reading import BodyReader, headers_of
from ghostfleet_simulator.api.schema import ERRORS
from ghostfleet_simulator.api.token_answers import TokenAnswers
from ghostfleet_simulator.config import Endpoint
from ghostfleet_simulator.runtime.server import SimulatedServer


def scale_out(server: SimulatedServer, generating: Generating, reader: BodyReader) -> APIRouter:
    """The routes that render prompts and that generate from tokens."""
    router = APIRouter()
    _render(router, reader)

    @router.post("/inference/v1/generate", responses=ERRORS)
    async def generate(request: Request) -> Response:
        """Tokens in, tokens out."""
        arrival_us = server.now_us()
        judged = await reader.read(judged_tokens, await request.body(), headers_of(request.scope))
        admitted = generating.admitted(Endpoint.GENERATE, request.scope, judged)
        if isinstance(admitted, Response):
            return admitted
        work, fault = admitted
        if fault is None:
            return TokenAnswers(server, work, judged.output_mode, arrival_us)
        mishap = generating.mishap(fault, work, request.scope)
        return TokenAnswers(server, work, judged.output_mode, arrival_us, named(fault), mishap)

    @router.post("/inference/v1/abort_requests", response_class=Response)
    async def abort_requests(request: Request) -> Response:
        """End requests by their ids; the answer does not wait for it."""
        job = partial(to_abort, server.request_ids())
        wanted = await reader.read(job, await request.body(), headers_of(request.scope))
        asyncio.get_running_loop().call_soon(server.abort, wanted)
        return Response()

    return router


def _render(router: APIRouter, reader: BodyReader) -> None:
    @router.post("/v1/chat/completions/render", responses=ERRORS)
    async def render_chat_completion(request: Request) -> Response:
        """The request for `/inference/v1/generate` that a chat comes to."""
        return await reader.answer(rendered_chat, request)

    @router.post("/v1/completions/render", responses=ERRORS)
    async def render_completions(request: Request) -> Response:
        """The requests for `/inference/v1/generate` that a completion comes to."""
        return await reader.answer(rendered_completion, request)


def sagemaker(server: SimulatedServer, generating: Generating, reader: BodyReader) -> APIRouter:
    """SageMaker's route: a chat or a completion, as the body has it."""
    router = APIRouter()

    @router.post("/invocations", responses=ERRORS)
    async def invocations(request: Request) -> Response:
        """A chat or a completion."""
        arrival_us = server.now_us()
        endpoint, judged = await reader.read(invoked, await request.body(), headers_of(request.scope))
        return generating.answer(endpoint, request.scope, judged, arrival_us)

    return router
