"""SGLang's routes that its router, its clients and its operators use.

Source: SGLang 0.5.10 srt/entrypoints/http_server.py and v1_loads.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.generate import Generating
from ghostfleet_simulator.api.injected import named
from ghostfleet_simulator.api.judging import Judged, judged
from ghostfleet_simulator.api.reading import BodyReader, headers_of
from ghostfleet_simulator.api.sglang.answers import NativeAnswers
from ghostfleet_simulator.api.sglang.requests import GENERATE, work_of
from ghostfleet_simulator.config import Endpoint, KVConnector, KVRole, ServerConfig
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.versions import SGLANG

_FLUSHED: Final = (
    "Cache flushed.\nPlease check backend logs for more details. (When there are running or waiting requests, the "
    "operation will not be performed.)\n"
)


class AbortRequest(BaseModel):
    """`POST /abort_request`."""

    rid: str = ""
    abort_all: bool = False


_ABORT: Final[Parser[AbortRequest]] = Parser(AbortRequest)


def sglang(server: SimulatedServer, generating: Generating, reader: BodyReader) -> APIRouter:
    """The routes of `server`."""
    router = APIRouter()
    _facts(router, server)
    _loads(router, server)

    @router.api_route("/health", methods=["GET"], response_class=Response)
    @router.api_route("/health_generate", methods=["GET"], response_class=Response)
    async def health() -> Response:
        """Whether the server takes requests; the body is empty."""
        return Response(status_code=503 if server.draining else 200)

    @router.api_route("/flush_cache", methods=["GET", "POST"])
    async def flush_cache() -> PlainTextResponse:
        """Forget the prefix cache, unless requests run or wait."""
        busy = server.running or server.waiting
        if busy or not server.reset_prefix_cache(reset_running_requests=False):
            return PlainTextResponse("Flush cache failed.\n", 400)
        return PlainTextResponse(_FLUSHED)

    @router.post("/abort_request", response_class=Response)
    async def abort_request(request: Request) -> Response:
        """End a request by its id, or all."""
        wanted = _ABORT.parse(await request.body(), request.headers.get("content-type", ""))
        server.abort(None if wanted.abort_all else [wanted.rid])
        return Response()

    @router.api_route("/generate", methods=["POST", "PUT"])
    async def generate(request: Request) -> Response:
        """Continue texts or tokens, whole or as a stream of events."""
        arrival_us = server.now_us()
        try:
            many, found = await reader.read(_native, await request.body(), headers_of(request.scope))
            admitted = generating.admitted(Endpoint.GENERATE, request.scope, found)
        except ApiError as error:
            return JSONResponse({"error": {"message": error.message}}, error.status)
        if isinstance(admitted, Response):
            return admitted
        work, fault = admitted
        if fault is None:
            return NativeAnswers(server, work, arrival_us, many=many)
        mishap = generating.mishap(fault, work, request.scope)
        return NativeAnswers(server, work, arrival_us, many=many, headers=named(fault), mishap=mishap)

    return router


def _native(facts: Facts, body: bytes, headers: Mapping[str, str]) -> tuple[bool, Judged]:
    """`/generate`: whether the answer is a list, and the work."""
    request = GENERATE.parse(body, headers.get("content-type", ""))
    return request.many, judged(request.lora_path, request.sampling_params.n, work_of, request, facts, headers)


def _facts(router: APIRouter, server: SimulatedServer) -> None:
    config = server.config

    @router.get("/get_model_info")
    @router.get("/model_info")
    async def model_info() -> JSONResponse:
        """The model."""
        return JSONResponse(
            {
                "model_path": config.model.name,
                "tokenizer_path": config.model.tokenizer or config.model.name,
                "is_generation": True,
                "preferred_sampling_params": None,
                "weight_version": "default",
                "has_image_understanding": False,
                "has_audio_understanding": False,
                "model_type": None,
                "architectures": None,
            }
        )

    @router.get("/get_server_info")
    @router.get("/server_info")
    async def server_info() -> JSONResponse:
        """Arguments of the server, and what its schedulers do."""
        return JSONResponse(server_arguments(config) | {"internal_states": _states(server), "version": SGLANG})

    @router.get("/v1/models")
    async def models() -> JSONResponse:
        """The name under which the model is served, and its adapters."""
        name = config.model.aliases[0]
        adapters = server.adapters.names.by_name.values()
        cards = [_card(name, name, None, config.model.max_model_len)]
        cards += [_card(one.adapter.name, one.adapter.path, name, None) for one in adapters]
        return JSONResponse({"object": "list", "data": cards})

    @router.get("/v1/models/{model:path}")
    async def one_model(model: str) -> JSONResponse:
        """One of them, by its name."""
        name = config.model.aliases[0]
        if model == name:
            return JSONResponse(_card(name, name, None, config.model.max_model_len))
        error = {"message": f"The model '{model}' does not exist", "type": "invalid_request_error"}
        return JSONResponse({"error": {**error, "param": "model", "code": "model_not_found"}}, 404)


def _card(name: str, root: str, parent: str | None, longest: int | None) -> dict[str, Any]:
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "sglang"}
    return card | {"root": root, "parent": parent, "max_model_len": longest}


_MODES: Final[dict[KVRole | None, str]] = {KVRole.PRODUCER: "prefill", KVRole.CONSUMER: "decode"}


def server_arguments(config: ServerConfig) -> dict[str, Any]:
    """SGLang's arguments, as far as they mean something here, and what its scheduler tells at its start."""
    cache, limits, model = config.kv_cache, config.limits, config.model
    tokens = (cache.blocks - 1) * cache.block_size
    events, transfer = config.kv_events, config.kv_transfer
    by_sglang = transfer.kv_connector is KVConnector.SGLANG
    return {
        "model_path": model.name,
        "tokenizer_path": model.tokenizer or model.name,
        "served_model_name": model.aliases[0],
        "host": config.listen.host,
        "port": config.listen.port,
        "context_length": model.max_model_len,
        "is_embedding": False,
        "weight_version": "default",
        "tp_size": 1,
        "pp_size": 1,
        "dp_size": config.data_parallel_size,
        "page_size": cache.block_size,
        "max_running_requests": limits.max_num_seqs,
        "max_total_tokens": tokens,
        "chunked_prefill_size": limits.max_num_batched_tokens,
        "schedule_policy": config.scheduling.policy.value.lower(),
        "disable_radix_cache": not cache.enable_prefix_caching,
        "enable_metrics": True,
        "random_seed": config.seed,
        "kv_events_config": events.model_dump_json(exclude={"connect", "int_block_hashes"}) if events.enabled else None,
        "disaggregation_mode": _MODES.get(transfer.kv_role, "null") if by_sglang else "null",
        "disaggregation_bootstrap_port": transfer.bootstrap_port,
        "status": "ready",
        "max_total_num_tokens": tokens,
        "max_req_input_len": model.max_model_len - 1,
    }


def _states(server: SimulatedServer) -> list[dict[str, Any]]:
    limits = server.config.limits
    return [
        {"max_running_requests": limits.max_num_seqs, "effective_max_running_requests_per_dp": limits.max_num_seqs}
        for _ in server.metrics.engines
    ]


def _loads(router: APIRouter, server: SimulatedServer) -> None:
    config = server.config
    tokens = (config.kv_cache.blocks - 1) * config.kv_cache.block_size

    def loads() -> list[dict[str, Any]]:
        found = []
        for engine in server.metrics.engines:
            measures = engine.measures
            running, waiting = int(measures.running.value), int(measures.waiting.value)
            queries = measures.prefix_queries.value
            found.append(
                {
                    "dp_rank": engine.rank,
                    "num_running_reqs": running,
                    "num_waiting_reqs": waiting,
                    "num_used_tokens": round(measures.kv_usage.value * tokens),
                    "max_total_num_tokens": tokens,
                    "token_usage": round(measures.kv_usage.value, 4),
                    "gen_throughput": 0.0,
                    "cache_hit_rate": round(measures.prefix_hits.value / queries, 4) if queries else 0.0,
                    "utilization": 0.0,
                    "max_running_requests": config.limits.max_num_seqs,
                    "num_total_reqs": running + waiting,
                }
            )
        return found

    @router.get("/get_load")
    async def get_load() -> JSONResponse:
        """Requests and tokens by rank."""
        return JSONResponse(
            [
                {
                    "rid": None,
                    "http_worker_ipc": None,
                    "dp_rank": load["dp_rank"],
                    "num_reqs": load["num_total_reqs"],
                    "num_waiting_reqs": load["num_waiting_reqs"],
                    "num_tokens": load["num_used_tokens"],
                    "ts_tic": time.monotonic(),
                }
                for load in loads()
            ]
        )

    @router.get("/v1/loads")
    async def v1_loads() -> JSONResponse:
        """Requests, tokens and cache by rank, and of all together."""
        ranks = loads()
        return JSONResponse(
            {
                "timestamp": datetime.now(UTC).isoformat(),
                "version": SGLANG,
                "dp_rank_count": len(ranks),
                "loads": ranks,
                "aggregate": {
                    "total_running_reqs": sum(load["num_running_reqs"] for load in ranks),
                    "total_waiting_reqs": sum(load["num_waiting_reqs"] for load in ranks),
                    "total_reqs": sum(load["num_total_reqs"] for load in ranks),
                    "avg_token_usage": round(sum(load["token_usage"] for load in ranks) / len(ranks), 4),
                    "avg_throughput": 0.0,
                    "avg_utilization": 0.0,
                },
            }
        )
