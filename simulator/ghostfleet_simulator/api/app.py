"""The application of one server."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.middleware.cors import CORSMiddleware

from ghostfleet_simulator.api.access import ApiKeys, RequestIds
from ghostfleet_simulator.api.errors import ApiError, internal_error
from ghostfleet_simulator.api.fault_gate import FaultGate
from ghostfleet_simulator.api.generate import failure, generation
from ghostfleet_simulator.api.instrumentation import Instrumented
from ghostfleet_simulator.api.openapi import describe
from ghostfleet_simulator.api.preflight import Facts
from ghostfleet_simulator.api.routes import information, tokenization
from ghostfleet_simulator.config import VLLM_VERSION
from ghostfleet_simulator.runtime.server import SimulatedServer

_log = logging.getLogger("ghostfleet.api")


def build_app(server: SimulatedServer, api_keys: Sequence[str] = ()) -> FastAPI:
    """The serving API of `server`: vLLM's routes; what is ours is in headers and on the admin port.

    With `api_keys` the routes that begin with `/v1` and the like want one of them.
    """
    facts = Facts.of(server.config, server.tokenizer)
    app = FastAPI(title="Ghostfleet simulated inference server", version=VLLM_VERSION)
    app.include_router(information(server))
    app.include_router(tokenization(facts))
    app.include_router(generation(server, facts))
    describe(app)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(FaultGate, server=server)
    # The last one added is the outermost: a browser's preflight request is answered before it is counted, as in vLLM.
    app.add_middleware(Instrumented, server=server)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    if api_keys:
        app.add_middleware(ApiKeys, keys=api_keys)
    if server.config.api.enable_request_id_headers:
        app.add_middleware(RequestIds)
    return app


async def _told(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    assert isinstance(error, ApiError)  # noqa: S101 - it is registered for nothing else
    return failure(error)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed: %r", request.method, request.url.path, error)
    return failure(internal_error())
