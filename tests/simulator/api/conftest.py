"""A real server on the loopback, one per test, and clients for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from ghostfleet_simulator.api.app import build_app
from ghostfleet_simulator.api.protocol import StreamingProtocol
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.problems import validated
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Running:
    """A server that listens, and a client of it."""

    server: SimulatedServer
    url: str
    client: httpx.AsyncClient
    connections: set[Any]
    """The protocols of its connections."""

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers=headers)

    async def value(self, series: str) -> float:
        """Value of one line of the metrics, 0 where it is missing."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(series)), 0.0)


class _Listener(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Signals belong to the test run."""


@asynccontextmanager
async def running_server(server: SimulatedServer, api_keys: Sequence[str] = ()) -> AsyncIterator[Running]:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    api = _Listener(
        uvicorn.Config(
            build_app(server, api_keys),
            http=StreamingProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
        )
    )
    task = asyncio.create_task(api._serve([listener]))
    while not api.started:
        await asyncio.sleep(0.005)
    server.start()
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield Running(server, url, client, api.server_state.connections)
    await server.shut_down(0)
    api.should_exit = True
    await task
    server.close()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer()


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(tokenizer: Tokenizer) -> AsyncIterator[Start]:
    """Starts a server with the given blocks of configuration; it echoes and is fast unless they say otherwise."""
    async with AsyncExitStack() as stack:

        async def make(*, api_keys: Sequence[str] = (), **blocks: Any) -> Running:
            raw = {
                "model": {"name": "org/base", "servedNames": ["one", "two"], "maxModelLen": 512},
                "profile": {"simple": {"timeToFirstToken": 2, "interTokenLatency": 1}},
                "answers": {"mode": "Echo"},
                **blocks,
            }
            server = SimulatedServer(validated(ServerConfig, raw), tokenizer=tokenizer)
            return await stack.enter_async_context(running_server(server, api_keys))

        yield make


@pytest.fixture
async def running(start: Start) -> Running:
    return await start()
