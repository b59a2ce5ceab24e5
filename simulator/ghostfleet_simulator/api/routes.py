"""Routes beside generation: what is served and how it is, and the tokenizer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ghostfleet_simulator.api import schema
from ghostfleet_simulator.api.load import Load
from ghostfleet_simulator.api.preflight import Facts, chat_messages, chat_prompt, encoded
from ghostfleet_simulator.api.requests import (
    DETOKENIZE,
    TOKENIZE,
    DetokenizeRequest,
    TokenizeCompletionRequest,
    TokenizeRequest,
)
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.text.tokenizer import Tokenizer

P = ParamSpec("P")
T = TypeVar("T")

METRICS_CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": schema.ErrorResponse} for status in (400, 404, 500, 501)
}

_BACKGROUND_BYTES: Final = 8 * 1024
"""Bodies from this size on, 1 ms of tokenizing, are read by a thread: the streams of other requests go on meanwhile."""


async def off_loop_if_large(body: bytes, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns, run in a thread if the body it is about is large."""
    if len(body) < _BACKGROUND_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def information(server: SimulatedServer, load: Load) -> APIRouter:
    """Health, version, models and metrics of `server`."""
    router = APIRouter()
    model = server.config.model

    router.add_api_route("/health", _health, methods=["GET"], response_class=Response)
    router.add_api_route("/ping", _health, methods=["GET"], response_class=Response)
    router.add_api_route("/ping", _health, methods=["POST"], response_class=Response)

    @router.get("/version")
    async def version() -> JSONResponse:
        """Version of vLLM."""
        return JSONResponse({"version": server.config.engine.version})

    @router.get("/load")
    async def server_load() -> JSONResponse:
        """Requests in progress; vLLM counts them only with `--enable-server-load-tracking`."""
        return JSONResponse({"server_load": load.requests})

    if server.config.engine.conduct.has_kv_event_sources:

        @router.get("/kv_event_sources")
        async def kv_event_sources() -> JSONResponse:
            """Where KV events are published, by data-parallel rank."""
            return JSONResponse({})

    @router.get("/v1/models", response_model=schema.ModelList)
    async def models() -> JSONResponse:
        """The names under which the model is served."""
        now = int(time.time())
        cards = [
            schema.ModelCard(
                id=alias,
                created=now,
                root=model.name,
                max_model_len=model.max_model_len,
                permission=[schema.ModelPermission(id=f"modelperm-{secrets.token_hex(8)}", created=now)],
            )
            for alias in model.aliases
        ]
        return JSONResponse(schema.ModelList(data=cards).model_dump())

    @router.get("/metrics/", include_in_schema=False)
    @router.get("/metrics")
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(server.metrics.render(), headers={"content-type": METRICS_CONTENT_TYPE})

    return router


async def _health() -> Response:
    """Whether the engine lives; the body is empty."""
    return Response()


def tokenization(facts: Facts) -> APIRouter:
    """The routes of a server's tokenizer."""
    router = APIRouter()

    @router.post("/tokenize", response_model=schema.TokenizeResponse, responses=ERRORS)
    async def tokenize(request: Request) -> Response:
        """Tokens of a text or of a conversation; there is no limit to their number."""
        body, content_type = await request.body(), request.headers.get("content-type", "")

        def work() -> dict[str, Any]:
            return _tokenized(TOKENIZE.parse(body, content_type), facts)

        return JSONResponse(await off_loop_if_large(body, work))

    @router.post("/detokenize", response_model=schema.DetokenizeResponse, responses=ERRORS)
    async def detokenize(request: Request) -> Response:
        """Text of tokens."""
        body, content_type = await request.body(), request.headers.get("content-type", "")

        def work() -> dict[str, Any]:
            return _detokenized(DETOKENIZE.parse(body, content_type), facts)

        return JSONResponse(await off_loop_if_large(body, work))

    return router


def tokenizer_information(tokenizer: Tokenizer) -> APIRouter:
    """`GET /tokenizer_info`: the tokenizer's configuration, special tokens as their text."""
    router = APIRouter()

    @router.get("/tokenizer_info")
    async def tokenizer_info() -> JSONResponse:
        """Configuration of the tokenizer."""
        config: dict[str, Any] = _plain(tokenizer.config)
        # vLLM wraps the tokenizer in a class of this name (tokenizers/hf.py).
        name = f"Cached{config.pop('tokenizer_class', 'PreTrainedTokenizerFast')}"
        return JSONResponse({"tokenizer_class": name, **config})

    return router


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if "content" in value and "lstrip" in value:  # an added token
            return value["content"]
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _tokenized(request: TokenizeRequest, facts: Facts) -> dict[str, Any]:
    facts.check_model(request.model)
    if isinstance(request, TokenizeCompletionRequest):
        text = request.prompt
    else:
        text = chat_prompt(request, chat_messages(request, facts), facts)
    tokens = encoded(text, facts, add_special_tokens=request.add_special_tokens)
    return {
        "count": len(tokens),
        "max_model_len": facts.max_model_len,
        "tokens": tokens,
        "token_strs": facts.tokenizer.token_strings(tokens) if request.return_token_strs else None,
    }


def _detokenized(request: DetokenizeRequest, facts: Facts) -> dict[str, Any]:
    facts.check_model(request.model)
    return {"prompt": facts.tokenizer.decode(request.tokens, skip_special_tokens=False)}
