"""Loading and unloading LoRA adapters at runtime.

Source: vLLM 0.33 entrypoints/serve/lora/api_router.py, which has these routes only with
VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.schema import ERRORS
from ghostfleet_simulator.runtime.adapters import AdapterError
from ghostfleet_simulator.runtime.server import SimulatedServer


class LoadLoRAAdapterRequest(BaseModel):
    """`POST /v1/load_lora_adapter`."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    is_3d_lora_weight: bool = False


class UnloadLoRAAdapterRequest(BaseModel):
    """`POST /v1/unload_lora_adapter`; a number is not looked at."""

    lora_name: str
    lora_int_id: int | None = None


_LOAD: Final[Parser[LoadLoRAAdapterRequest]] = Parser(LoadLoRAAdapterRequest)
_UNLOAD: Final[Parser[UnloadLoRAAdapterRequest]] = Parser(UnloadLoRAAdapterRequest)


def adapters(server: SimulatedServer) -> APIRouter:
    """The routes that load and unload adapters of `server`."""
    router = APIRouter()

    @router.post("/v1/load_lora_adapter", responses=ERRORS, response_class=Response)
    async def load_lora_adapter(request: Request) -> Response:
        """Load an adapter; answered when it is there."""
        wanted = _LOAD.parse(await request.body(), request.headers.get("content-type", ""))
        try:
            await server.adapters.load(wanted.lora_name, wanted.lora_path, in_place=wanted.load_inplace)
        except AdapterError as error:
            raise ApiError(error.status, error.type, str(error)) from None
        return Response(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.")

    @router.post("/v1/unload_lora_adapter", responses=ERRORS, response_class=Response)
    async def unload_lora_adapter(request: Request) -> Response:
        """Unload an adapter; requests for it that are under way go on."""
        wanted = _UNLOAD.parse(await request.body(), request.headers.get("content-type", ""))
        try:
            await server.adapters.unload(wanted.lora_name)
        except AdapterError as error:
            raise ApiError(error.status, error.type, str(error)) from None
        return Response(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.")

    return router
