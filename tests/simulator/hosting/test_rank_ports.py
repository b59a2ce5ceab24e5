"""Data-parallel ranks on ports of their own: a server for each, with one document, one admin API and one end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.served import free_ports

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.flags import Options
from ghostfleet_simulator.hosting.hosted import CannotListen, Hosted
from ghostfleet_simulator.problems import validated

PACE = {"simple": {"timeToFirstToken": "1ms", "interTokenLatency": "1ms"}}
WITHIN = 30
"""Seconds in which what should happen has happened; the machine may be busy."""


def configuration(size: int, **more: Any) -> ServerConfig:
    port, admin = free_ports(size), free_ports(1)
    listen = {"host": "127.0.0.1", "port": port, "adminPort": admin}
    ranks = {"dataParallelSize": size, "dataParallelPortPerRank": True}
    return validated(ServerConfig, {"model": {"name": "m"}, "profile": PACE, "listen": listen, **ranks, **more})


@asynccontextmanager
async def running(config: ServerConfig, live_file: Path | None = None) -> AsyncIterator[httpx.AsyncClient]:
    hosted = Hosted(config, Document.of(config, 1), Options(live_file=live_file), shares_process=True)
    task = asyncio.create_task(hosted.run())
    await asyncio.wait_for(hosted.listening.wait(), WITHIN)
    async with httpx.AsyncClient(timeout=WITHIN) as client:
        yield client
    hosted.stop()
    await asyncio.wait_for(task, WITHIN)


def url(config: ServerConfig, rank: int | None, path: str) -> str:
    """Of a rank, or of the admin API."""
    port = config.listen.admin_port if rank is None else config.listen.port + rank
    return f"http://127.0.0.1:{port}{path}"


async def ask(client: httpx.AsyncClient, config: ServerConfig, rank: int, **headers: str) -> httpx.Response:
    body = {"model": "m", "prompt": f"To rank {rank}", "max_tokens": 3, "ignore_eos": True}
    return await client.post(url(config, rank, "/v1/completions"), json=body, headers=headers)


async def engines(client: httpx.AsyncClient, config: ServerConfig, rank: int) -> dict[str, str]:
    """The values of `vllm:generation_tokens_total` by engine, as a scrape of a rank's port tells them."""
    text = (await client.get(url(config, rank, "/metrics"))).text
    lines = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total{")]
    return {line.partition('engine="')[2].partition('"')[0]: line.rpartition(" ")[2] for line in lines}


async def test_each_port_is_one_engine() -> None:
    """Its requests go there, its metrics tell of it alone, under the number of the rank."""
    config = configuration(3)
    async with running(config) as client:
        for rank, times in ((0, 1), (2, 3)):
            for _ in range(times):
                assert (await ask(client, config, rank)).status_code == 200
        assert [await engines(client, config, rank) for rank in range(3)] == [{"0": "3"}, {"1": "0"}, {"2": "9"}]
        told = (await client.get(url(config, None, "/admin/requests?limit=3"))).json()
        assert told["total"] == 4
        assert [request["rank"] for request in told["requests"]] == [2, 2, 2]
        state = (await client.get(url(config, None, "/admin/state"))).json()
        assert state["requests"]["length"] == 4
        assert [(rank["rank"], rank["requests"]["length"]) for rank in state["ranks"]] == [(0, 1), (1, 0), (2, 3)]


async def test_a_request_can_name_no_other_rank() -> None:
    """vLLM's external load balancing: behind a port there is one engine, the 0th."""
    config = configuration(2)
    async with running(config) as client:
        assert (await ask(client, config, 1, **{"X-data-parallel-rank": "0"})).status_code == 200
        refused = await ask(client, config, 1, **{"X-data-parallel-rank": "1"})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "data_parallel_rank 1 is out of range [0, 1)."


async def test_a_document_is_in_force_on_all_of_them_or_on_none(tmp_path: Path) -> None:
    config, live = configuration(2), tmp_path / "live.json"
    async with running(config, live) as client:
        admin = url(config, None, "/admin/config")
        other = config.model_copy(update={"fake_metrics": {'vllm:num_requests_waiting{engine="1"}': "5"}})
        document = Document.of(other, 2)
        assert (await client.put(admin, json=document.to_json())).json()["pendingRestart"] == []
        answers = [await ask(client, config, rank) for rank in (0, 1)]
        assert {answer.headers["x-ghostfleet-revision"] for answer in answers} == {"2"}
        waiting = [(await client.get(url(config, rank, "/metrics"))).text for rank in (0, 1)]
        assert ['num_requests_waiting{engine="1",model_name="m"} 5' in text for text in waiting] == [False, True]
        assert '"revision": 2' in live.read_text()
        bad = await client.patch(admin, json={"fakeMetrics": {"vllm:num_requests_waiting": "none"}})
        assert bad.status_code == 422
        answers = [await ask(client, config, rank) for rank in (0, 1)]
        assert {answer.headers["x-ghostfleet-revision"] for answer in answers} == {"2"}


async def test_readiness_is_of_all_of_them() -> None:
    config = configuration(2)
    async with running(config) as client:
        ready = url(config, None, "/admin/ready")
        assert (await client.get(ready)).status_code == 200
        await client.post(url(config, None, "/admin/drain"))
        assert (await client.get(ready)).json() == {"ready": False, "reason": "draining"}


async def test_a_taken_port_is_told_before_anything_serves() -> None:
    """And what was bound till then is free again."""
    config = configuration(3)
    blocked = config.model_copy(update={"listen": config.listen.model_copy(update={"admin_port": None})})
    async with running(configuration(2).model_copy(update={"listen": config.listen})):
        with pytest.raises(CannotListen, match=f"127.0.0.1 ports {config.ports[0]} to {config.ports[-1]}: Address"):
            Hosted(blocked, None, Options())
    async with running(config) as client:
        assert (await ask(client, config, 2)).status_code == 200
