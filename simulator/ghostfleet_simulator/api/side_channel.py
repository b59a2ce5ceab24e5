"""The side channel, on which other servers come for KV cache: what NIXL's and Mooncake's agents say, by HTTP.

Every answer holds `held`, by which the other side knows that it speaks with one of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.transfer import ROUTES

if TYPE_CHECKING:
    from ghostfleet_simulator.runtime.exchange import Exchange


class _Fetch(BaseModel):
    key: str
    engineId: str | None = None  # noqa: N815 - as it is written
    blocks: int = Field(ge=0, le=2**31)
    early: bool = False


class _Done(BaseModel):
    key: str


class _Heartbeat(BaseModel):
    keys: list[str]


def side_channels(server: SimulatedServer) -> dict[int, list[Exchange]]:
    """Ports on which others come for KV cache, and the engines that each is of. One of them may be the API's."""
    ports: dict[int, list[Exchange]] = {}
    if server.config.kv_transfer.produces:
        for exchange in server.ranks.exchanges:
            ports.setdefault(exchange.port, []).append(exchange)
    return ports


def side_channel(exchanges: Sequence[Exchange]) -> APIRouter:
    """The routes that other servers call, and Mooncake's bootstrap, which routers call as well."""
    router = APIRouter()

    def of(key: str, engine_id: str | None = None) -> Exchange:
        """The engine that is meant, by its name or by what it has; of one that is not there yet, the first."""
        named = (exchange for exchange in exchanges if exchange.protocol.engine_id == engine_id)
        return next(named, None) or next((one for one in exchanges if one.knows(key)), exchanges[0])

    @router.post(f"{ROUTES}/fetch", include_in_schema=False)
    async def fetch(wish: _Fetch) -> JSONResponse:
        """Begin to send blocks."""
        exchange = of(wish.key, wish.engineId)
        wrong = await exchange.fetched(wish.key, wish.engineId, wish.blocks, early=wish.early)
        if wrong is not None:
            return JSONResponse({"held": False, "message": wrong}, 404)
        return JSONResponse({"held": True})

    @router.post(f"{ROUTES}/done", include_in_schema=False)
    async def done(said: _Done) -> JSONResponse:
        """Let blocks go."""
        return JSONResponse({"held": await of(said.key).done(said.key)})

    @router.post(f"{ROUTES}/heartbeat", include_in_schema=False)
    async def heartbeat(said: _Heartbeat) -> JSONResponse:
        """Hold blocks for longer."""
        for exchange in exchanges:
            exchange.heartbeat(said.keys)
        return JSONResponse({"held": True})

    @router.get("/query", include_in_schema=False)
    async def query() -> dict[str, Any]:
        """Mooncake: the engines behind this address, by data-parallel rank."""
        return {str(exchange.rank): exchange.entry for exchange in exchanges}

    return router


def build_side_channel(exchanges: Sequence[Exchange]) -> FastAPI:
    """The side channel as an application of its own."""
    app = FastAPI(title="Ghostfleet side channel", openapi_url=None)
    app.include_router(side_channel(exchanges))
    return app
