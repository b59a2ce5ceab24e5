"""The application of one server."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from ghostfleet_simulator.api.access import ApiKeys, RequestIds
from ghostfleet_simulator.api.development import development
from ghostfleet_simulator.api.direct import Direct
from ghostfleet_simulator.api.errors import ApiError, internal_error, invalid_body, unreadable_body
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.fault_gate import FaultGate
from ghostfleet_simulator.api.generate import Generating, failure, generation
from ghostfleet_simulator.api.hot import Application, HotRoutes, Shortcut
from ghostfleet_simulator.api.instrumentation import Instrumented
from ghostfleet_simulator.api.llmd import llmd_routes
from ghostfleet_simulator.api.load import Load, LoadTracking
from ghostfleet_simulator.api.lora import adapters
from ghostfleet_simulator.api.openapi import describe
from ghostfleet_simulator.api.reading import BodyReader
from ghostfleet_simulator.api.routes import information, metrics_route, of_vllm, tokenization, tokenizer_information
from ghostfleet_simulator.api.scale_out import sagemaker, scale_out
from ghostfleet_simulator.api.sglang.routes import sglang
from ghostfleet_simulator.api.side_channel import side_channel, side_channels
from ghostfleet_simulator.config import Dialect
from ghostfleet_simulator.llmd.settings import LlmdSettings
from ghostfleet_simulator.runtime.server import SimulatedServer

_log = logging.getLogger("ghostfleet.api")


def build_app(server: SimulatedServer, api_keys: Sequence[str] = (), llmd: LlmdSettings | None = None) -> Application:
    """The serving API of `server`: the routes of its engine; what is ours is in headers and on the admin port.

    With `api_keys` the routes that begin with `/v1` and the like want one of them. `llmd` is the command line of
    llm-d-inference-sim that the server was started with, if that was it.
    """
    facts = Facts.of(server.config, server.tokenizer, server.adapters.names)
    reader = BodyReader(server.config.model, facts)
    server.resources.callback(reader.close)
    generating = Generating(server, facts, reader)
    api, http = server.config.api, server.config.http
    whole_only = api_keys or api.enable_request_id_headers or http.enable_server_load_tracking
    whole = partial(_whole, server, reader, generating, api_keys, llmd)
    return Application(whole) if whole_only else Application(whole, Shortcut(server, generating), Direct(server, facts))


def _whole(
    server: SimulatedServer,
    reader: BodyReader,
    generating: Generating,
    api_keys: Sequence[str],
    llmd: LlmdSettings | None,
) -> FastAPI:
    http, load = server.config.http, Load()
    documented = not http.disable_fastapi_docs
    app = FastAPI(
        title="Ghostfleet simulated inference server",
        version=server.config.engine.version,
        openapi_url="/openapi.json" if documented else None,
        docs_url="/docs" if documented else None,
        redoc_url="/redoc" if documented else None,
        # FastAPI's own OpenTelemetry, which newer releases ask about at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.root_path = http.root_path
    app.include_router(metrics_route(server))
    app.include_router(generation(generating))
    if here := side_channels(server).get(server.config.listen.port):
        app.include_router(side_channel(here))
    match server.config.engine.dialect:
        case Dialect.VLLM:
            _vllm(app, server, generating, reader, load)
        case Dialect.SGLANG:
            app.include_router(sglang(server, generating, reader))
        case _:
            app.include_router(information(server))
    if http.llmd_sim_routes:
        app.include_router(llmd_routes(server, llmd))
    describe(app)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(HotRoutes, generating=generating, server=server)
    if http.enable_server_load_tracking:
        app.add_middleware(LoadTracking, load=load)
    app.add_middleware(FaultGate, server=server)
    # The last one added is the outermost: a browser's preflight request is answered before it is counted, as in vLLM.
    app.add_middleware(Instrumented, server=server)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=http.allowed_origins,
        allow_credentials=http.allow_credentials,
        allow_methods=http.allowed_methods,
        allow_headers=http.allowed_headers,
    )
    if api_keys:
        app.add_middleware(ApiKeys, keys=api_keys)
    if server.config.api.enable_request_id_headers:
        app.add_middleware(RequestIds)
    return app


def _vllm(app: FastAPI, server: SimulatedServer, generating: Generating, reader: BodyReader, load: Load) -> None:
    http = server.config.http
    app.include_router(information(server))
    app.include_router(of_vllm(server, load))
    app.include_router(tokenization(reader))
    app.include_router(scale_out(server, generating, reader))
    app.include_router(sagemaker(server, generating, reader))
    if http.allow_runtime_lora_updating:
        app.include_router(adapters(server))
    if http.enable_tokenizer_info_endpoint:
        app.include_router(tokenizer_information(server.tokenizer))
    if http.development_mode:
        app.include_router(development(server))


async def _told(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    assert isinstance(error, ApiError)  # noqa: S101 - it is registered for nothing else
    return failure(error)


async def _invalid(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for nothing else
    return failure(invalid_body(error.errors()))


async def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    """What FastAPI makes of a client that leaves amid its body: nobody reads it, but it is counted."""
    unreadable = unreadable_body()
    return JSONResponse({"detail": unreadable.detail}, unreadable.status_code)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed: %r", request.method, request.url.path, error)
    return failure(internal_error())
