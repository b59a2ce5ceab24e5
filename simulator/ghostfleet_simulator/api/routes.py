"""Routes beside generation: what is served and how it is, and the tokenizer."""

from __future__ import annotations

import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ghostfleet_simulator.api import schema
from ghostfleet_simulator.api.hot import exposition
from ghostfleet_simulator.api.judging import detokenized, tokenized
from ghostfleet_simulator.api.load import Load
from ghostfleet_simulator.api.reading import BodyReader
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.text.tokenizer import Tokenizer


def of_vllm(server: SimulatedServer, load: Load) -> APIRouter:
    """What only a vLLM server tells of itself."""
    router = APIRouter()

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
            publishers = {str(rank.number): rank.kv_events for rank in server.ranks}
            return JSONResponse({number: one.to_json() for number, one in publishers.items() if one})

    return router


def metrics_route(server: SimulatedServer) -> APIRouter:
    """The metrics of `server`."""
    router = APIRouter()

    @router.get("/metrics/", include_in_schema=False)
    @router.get("/metrics")
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return exposition(server)

    return router


def information(server: SimulatedServer) -> APIRouter:
    """Health and models of `server`."""
    router = APIRouter()
    model = server.config.model

    router.add_api_route("/health", _health, methods=["GET"], response_class=Response)

    @router.get("/v1/models", response_model=schema.ModelList)
    async def models() -> JSONResponse:
        """The names under which the model is served, and its adapters."""
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
        cards += [
            schema.ModelCard(
                id=served.adapter.name,
                created=now,
                root=served.adapter.path,
                parent=served.parent,
                permission=[schema.ModelPermission(id=f"modelperm-{secrets.token_hex(8)}", created=now)],
            )
            for served in server.adapters.names.by_name.values()
        ]
        return JSONResponse(schema.ModelList(data=cards).model_dump())

    return router


async def _health() -> Response:
    """Whether the engine lives; the body is empty."""
    return Response()


def tokenization(reader: BodyReader) -> APIRouter:
    """The routes of a server's tokenizer."""
    router = APIRouter()

    @router.post("/tokenize", response_model=schema.TokenizeResponse, responses=schema.ERRORS)
    async def tokenize(request: Request) -> Response:
        """Tokens of a text or of a conversation; there is no limit to their number."""
        return await reader.answer(tokenized, request)

    @router.post("/detokenize", response_model=schema.DetokenizeResponse, responses=schema.ERRORS)
    async def detokenize(request: Request) -> Response:
        """Text of tokens."""
        return await reader.answer(detokenized, request)

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
