"""A server that shows itself as SGLang: what its router, its clients and its operators call."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from tests.simulator.api.conftest import Running, Start

SGLANG = {"engine": {"dialect": "SGLang"}}
MODEL = {"name": "org/base", "servedNames": ["one"], "maxModelLen": 4096}
PROMPT = list(range(100, 164))


@pytest.fixture
async def sglang(start: Start) -> Running:
    return await start(**SGLANG, model=MODEL)


async def test_what_a_router_asks_for_at_registration(start: Start) -> None:
    """Both spellings of each."""
    events = {"enableKvCacheEvents": True, "endpoint": "tcp://127.0.0.1:1"}
    running = await start(**SGLANG, kvEvents=events, kvCache={"blockSize": 1, "blocks": 40001})
    for path in ("/server_info", "/get_server_info"):
        told = (await running.client.get(path)).json()
        assert (told["served_model_name"], told["dp_size"], told["page_size"]) == ("one", 1, 1)
        assert told["max_total_num_tokens"] == 40000
        assert told["version"] == "0.5.10"
        assert json.loads(told["kv_events_config"])["endpoint"] == "tcp://127.0.0.1:1"
    for path in ("/model_info", "/get_model_info"):
        told = (await running.client.get(path)).json()
        assert told["is_generation"] is True
        assert told["model_path"] == running.server.config.model.name


@pytest.mark.parametrize(
    ("connector", "role", "mode"),
    [("SGLang", "kv_producer", "prefill"), ("SGLang", "kv_consumer", "decode"), ("NixlConnector", "kv_both", "null")],
)
async def test_the_disaggregation_mode_is_the_role_of_the_transfers(
    start: Start, connector: str, role: str, mode: str
) -> None:
    running = await start(**SGLANG, kvTransfer={"kvConnector": connector, "kvRole": role, "bootstrapPort": 8777})
    told = (await running.client.get("/server_info")).json()
    assert (told["disaggregation_mode"], told["disaggregation_bootstrap_port"]) == (mode, 8777)


async def test_models_are_cards_of_sglang(sglang: Running) -> None:
    [card] = (await sglang.client.get("/v1/models")).json()["data"]
    assert (card["id"], card["owned_by"], card["root"]) == ("one", "sglang", "one")
    assert "permission" not in card
    assert (await sglang.client.get("/v1/models/one")).json()["id"] == "one"
    assert (await sglang.client.get("/v1/models/other")).json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "path", ["/version", "/load", "/ping", "/kv_event_sources", "/inference/v1/generate", "/tokenize", "/invocations"]
)
async def test_what_is_vllms_alone_is_not_there(sglang: Running, path: str) -> None:
    assert (await sglang.client.get(path)).status_code in (404, 405)
    assert (await sglang.client.post(path, json={})).status_code == 404


async def test_health_goes_when_the_server_drains(sglang: Running) -> None:
    for path in ("/health", "/health_generate"):
        answer = await sglang.client.get(path)
        assert (answer.status_code, answer.content) == (200, b"")
    sglang.server.drain()
    assert (await sglang.client.get("/health")).status_code == 503


async def test_generate_answers_whole(sglang: Running) -> None:
    """A text, or tokens, with what the engine knows of them."""
    body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 5, "ignore_eos": True}, "rid": "r"}
    told = (await sglang.post("/generate", body)).json()
    assert told["output_ids"] == PROMPT[:5]
    meta = told["meta_info"]
    assert (meta["id"], meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == ("r", 64, 5, 0)
    assert meta["finish_reason"] == {"type": "length", "length": 5}
    assert meta["e2e_latency"] > 0
    again = (await sglang.post("/generate", body)).json()["meta_info"]
    assert again["cached_tokens"] == 48
    text = (await sglang.post("/generate", {"text": "to be or not", "sampling_params": {"stop": " or"}})).json()
    assert text["text"].strip() == "to be"
    assert text["meta_info"]["finish_reason"] == {"type": "stop", "matched": " or"}


async def test_generate_answers_many_as_a_list(sglang: Running) -> None:
    """Several prompts, or several answers to one."""
    params = {"max_new_tokens": 2, "ignore_eos": True}
    told = (await sglang.post("/generate", {"text": ["a b c", "d e f"], "sampling_params": params})).json()
    assert len(told) == 2
    assert told[0]["output_ids"] != told[1]["output_ids"]
    told = (await sglang.post("/generate", {"text": "a b c", "sampling_params": {**params, "n": 3}})).json()
    assert [one["meta_info"]["completion_tokens"] for one in told] == [2, 2, 2]


async def _frames(running: Running, body: dict[str, Any]) -> list[Any]:
    async with running.client.stream("POST", "/generate", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]
    assert frames[-1] == "[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


async def test_generate_streams_what_there_is_so_far(sglang: Running) -> None:
    """Each event holds the whole text and all tokens until then."""
    body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 4, "ignore_eos": True}, "stream": True}
    frames = await _frames(sglang, body)
    assert frames[-1]["output_ids"] == PROMPT[:4]
    for before, after in pairwise(frames):
        assert after["text"].startswith(before["text"])
        assert after["output_ids"][: len(before["output_ids"])] == before["output_ids"]
        assert before["meta_info"]["finish_reason"] is None
    assert frames[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 4}
    many = await _frames(sglang, {**body, "input_ids": [PROMPT, PROMPT[:8]]})
    assert {frame["index"] for frame in many} == {0, 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"text": "a", "input_ids": [1]}, 400),
        ({"text": "a", "sampling_params": {"max_new_tokens": "many"}}, 400),
        ({"text": "a", "lora_path": "other"}, 404),
        ({"input_ids": [1] * 40000}, 400),
    ],
)
async def test_a_bad_request_to_generate_is_told_what_is_wrong(sglang: Running, body: Any, status: int) -> None:
    answer = await sglang.post("/generate", body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_load_is_told_by_rank(start: Start) -> None:
    """In the form of `/get_load`, and in that of `/v1/loads`."""
    slow = {"simple": {"timeToFirstToken": "30s"}}
    running = await start(**SGLANG, profile=slow, scheduling={"maxNumSeqs": 1})
    tasks = [asyncio.create_task(running.post("/generate", {"input_ids": PROMPT})) for _ in range(3)]
    for _ in range(400):
        [load] = (await running.client.get("/get_load")).json()
        if load["num_reqs"] == 3:
            break
        await asyncio.sleep(0.05)
    assert (load["num_reqs"], load["num_waiting_reqs"], load["dp_rank"]) == (3, 2, 0)
    told = (await running.client.get("/v1/loads")).json()
    assert told["aggregate"]["total_running_reqs"] == 1
    assert told["loads"][0]["num_used_tokens"] >= 64
    assert (await running.client.post("/flush_cache")).status_code == 400
    await running.post("/abort_request", {"abort_all": True})
    assert [answer.json()["meta_info"]["finish_reason"]["type"] for answer in await asyncio.gather(*tasks)] == [
        "abort"
    ] * 3


async def test_the_cache_can_be_flushed(sglang: Running) -> None:
    body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 1}}
    await sglang.post("/generate", body)
    assert (await sglang.client.get("/flush_cache")).text.startswith("Cache flushed.")
    assert (await sglang.post("/generate", body)).json()["meta_info"]["cached_tokens"] == 0
