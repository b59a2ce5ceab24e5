"""Routes of vLLM's development mode: pause, sleep, caches, what runs.

Source: vLLM 0.33 entrypoints/rl/online/api_router.py and entrypoints/serve/dev/*/api_router.py.
"""

from __future__ import annotations

import json
import logging
import platform
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from ghostfleet_simulator.api.errors import ApiError, internal_error
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.standby import NotPaused, PauseMode

_log = logging.getLogger("ghostfleet.api")

_Mode = Annotated[Literal["abort", "wait", "keep"], Query()]


def development(server: SimulatedServer) -> APIRouter:
    """The routes that vLLM has with VLLM_SERVER_DEV_MODE=1, as far as they mean something without a model."""
    router = APIRouter()
    _pause(router, server)
    _sleep(router, server)
    _caches(router, server)

    @router.get("/server_info")
    async def server_info(config_format: Annotated[Literal["text", "json"], Query()] = "text") -> JSONResponse:
        """Configuration and surroundings of the server."""
        config = server.config
        return JSONResponse(
            {
                "vllm_config": _as_text(config) if config_format == "text" else _as_json(config),
                "vllm_env": {name: server.environ[name] for name in sorted(server.environ) if _told(name)},
                "system_env": {
                    "os": f"{platform.system()} {platform.release()}",
                    "python_version": platform.python_version(),
                    "python_platform": platform.platform(),
                    "is_cuda_available": False,
                    "nvidia_gpu_models": config.engine.gpu,
                    "vllm_version": config.engine.version,
                },
            }
        )

    return router


def _pause(router: APIRouter, server: SimulatedServer) -> None:
    standby = server.standby

    @router.post("/pause")
    async def pause(mode: _Mode = "abort", clear_cache: Annotated[bool, Query()] = True) -> JSONResponse:
        """Stop generating; in the modes `abort` and `wait` new requests are refused until `/resume`."""
        await standby.pause(PauseMode(mode), clear_cache=clear_cache)
        return JSONResponse({"status": "paused"})

    @router.post("/resume")
    async def resume() -> JSONResponse:
        """Generate again."""
        standby.resume()
        return JSONResponse({"status": "resumed"})

    @router.get("/is_paused")
    async def is_paused() -> JSONResponse:
        """Whether generation is paused."""
        return JSONResponse({"is_paused": standby.paused})

    @router.post("/abort_requests")
    async def abort_requests(request: Request) -> JSONResponse:
        """End the requests whose ids are given in `request_ids`; without any, all."""
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise ApiError(400, "Bad Request", "Invalid JSON format") from None
        if not isinstance(body, dict):
            raise ApiError(400, "Bad Request", "Request body must be a JSON object")
        wanted = body.get("request_ids")
        try:
            count = server.abort(wanted or None) if not isinstance(wanted, str) else _abort_one(server, wanted)
        except TypeError as error:
            return JSONResponse({"error": f"Failed to abort requests: {error}"}, 500)
        return JSONResponse({"status": "aborted", "aborted": count})


def _abort_one(server: SimulatedServer, request_id: str) -> int:
    """vLLM counts the characters of an id that is not in a list."""
    server.abort([request_id])
    return len(request_id)


def _sleep(router: APIRouter, server: SimulatedServer) -> None:
    standby, recorded = server.standby, server.metrics.sleep_operations.record

    @router.post("/sleep")
    async def sleep(level: Annotated[int, Query(ge=0, le=2)] = 1, mode: _Mode = "abort") -> JSONResponse:
        """Stop generating and, from level 1 on, drop the KV cache; requests that come wait for `/wake_up`."""
        with recorded("sleep"):
            await standby.sleep(level, PauseMode(mode))
        return JSONResponse({"status": "sleeping", "level": level})

    @router.post("/wake_up")
    async def wake_up(request: Request) -> JSONResponse:
        """Bring back what `/sleep` put aside, all of it or what the `tags` name."""
        tags = request.query_params.getlist("tags") or None
        _log.info("wake up the engine with tags: %s", tags)
        with recorded("wake"):
            awake = await standby.wake_up(tags)
        return JSONResponse({"status": "awake" if awake else "sleeping", "tags": tags})

    @router.post("/release_kv_cache_memory")
    async def release_kv_cache_memory() -> JSONResponse:
        """Drop the KV cache of a paused server."""
        with recorded("release_kv_cache_memory"):
            try:
                standby.release_kv_cache()
            except NotPaused as error:
                raise internal_error(f"Call to release_kv_cache_memory method failed: {error}") from None
        return JSONResponse({"status": "kv_cache_released"})

    @router.get("/is_sleeping")
    async def is_sleeping() -> JSONResponse:
        """Whether the server is asleep or paused."""
        return JSONResponse({"is_sleeping": standby.sleeping})


def _caches(router: APIRouter, server: SimulatedServer) -> None:
    says_success = server.config.engine.conduct.reset_says_success

    @router.post("/reset_prefix_cache")
    async def reset_prefix_cache(
        reset_running_requests: Annotated[bool, Query()] = False,
        reset_external: Annotated[bool, Query()] = False,  # noqa: ARG001 - there is no external cache
    ) -> Response:
        """Forget the prefix cache, unless blocks are in use; running requests may be preempted for it."""
        _log.info("Resetting prefix cache...")
        success = server.reset_prefix_cache(reset_running_requests=reset_running_requests)
        return JSONResponse({"success": success}) if says_success else Response()

    @router.post("/reset_mm_cache", response_class=Response)
    async def reset_mm_cache() -> Response:
        """Forget the multi-modal cache, which a text model has not."""
        _log.info("Resetting multi-modal cache...")
        return Response()

    @router.post("/reset_encoder_cache", response_class=Response)
    async def reset_encoder_cache() -> Response:
        """Forget the encoder cache, which a text model has not."""
        _log.info("Resetting encoder cache...")
        return Response()


def _told(name: str) -> bool:
    return name.startswith("VLLM_") and "KEY" not in name


_UNCHANGED: Final = "quantization=None, enforce_eager=False, kv_cache_dtype=auto, device_config=cuda"


def _as_text(config: ServerConfig) -> str:
    """The parts of vLLM's `VllmConfig.__str__` that mean something here, in its order and spelling."""
    return (
        f"model={config.model.name!r}, speculative_config=None, tokenizer={config.model.name!r}, "
        f"skip_tokenizer_init=False, dtype=torch.bfloat16, max_seq_len={config.model.max_model_len}, "
        "tensor_parallel_size=1, pipeline_parallel_size=1, "
        f"data_parallel_size={config.data_parallel_size}, {_UNCHANGED}, "
        f"seed={config.seed}, served_model_name={config.model.aliases[0]}, "
        f"enable_prefix_caching={config.kv_cache.enable_prefix_caching}, "
        f"enable_chunked_prefill={config.scheduling.enable_chunked_prefill}"
    )


def _as_json(config: ServerConfig) -> dict[str, Any]:
    model, cache, scheduling, limits = config.model, config.kv_cache, config.scheduling, config.limits
    return {
        "model_config": {
            "model": model.name,
            "tokenizer": model.name,
            "served_model_name": model.aliases[0] if len(model.aliases) == 1 else list(model.aliases),
            "max_model_len": model.max_model_len,
            "seed": config.seed,
        },
        "cache_config": {
            "block_size": cache.block_size,
            "num_gpu_blocks": cache.blocks,
            "enable_prefix_caching": cache.enable_prefix_caching,
        },
        "scheduler_config": {
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "max_num_seqs": limits.max_num_seqs,
            "enable_chunked_prefill": scheduling.enable_chunked_prefill,
            "policy": scheduling.policy.value.lower(),
        },
        "parallel_config": {
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "data_parallel_size": config.data_parallel_size,
        },
    }
