"""vLLM's development routes: pause, sleep and caches have their effect; without the mode there is none of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from tests.simulator.api.conftest import Running, Start

SLOW = {"simple": {"timeToFirstToken": 20, "interTokenLatency": 20}}
CHAT = "/v1/chat/completions"
PAUSED = "Generation is paused. Please retry after it resumes."


@pytest.fixture
async def dev(start: Start) -> Running:
    return await start(http={"developmentMode": True}, profile=SLOW)


def question(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "one two three four five six seven eight"}], **fields}


async def until(dev: Running, series: str, value: float) -> None:
    async with asyncio.timeout(10):
        while await dev.value(series) != value:
            await asyncio.sleep(0.005)


def ask(dev: Running, **fields: Any) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(dev.post(CHAT, question(**fields)))


RUNNING = "vllm:num_requests_running{"
WAITING = "vllm:num_requests_waiting{"


async def test_without_the_mode_there_is_none_of_the_routes(running: Running) -> None:
    for path in (
        "/pause",
        "/resume",
        "/sleep",
        "/wake_up",
        "/reset_prefix_cache",
        "/reset_mm_cache",
        "/abort_requests",
    ):
        assert (await running.client.post(path)).status_code == 404, path
    for path in ("/is_paused", "/is_sleeping", "/server_info"):
        answer = await running.client.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


# --- pause -------------------------------------------------------------------------------------------


async def test_a_pause_aborts_what_runs_and_refuses_what_comes(dev: Running) -> None:
    before = ask(dev, max_tokens=200, ignore_eos=True)
    await until(dev, RUNNING, 1)
    assert (await dev.client.post("/pause")).json() == {"status": "paused"}
    choice = (await before).json()["choices"][0]
    assert choice["finish_reason"] == "abort"
    assert (await dev.client.get("/is_paused")).json() == {"is_paused": True}
    assert (await dev.client.get("/is_sleeping")).json() == {"is_sleeping": True}

    refused = await dev.post(CHAT, question())
    error = {"message": PAUSED, "type": "ServiceUnavailableError", "param": None, "code": 503}
    assert (refused.status_code, refused.json()) == (503, {"error": error})
    assert await dev.value('vllm:request_success_total{engine="0",finished_reason="abort"') == 1
    assert await dev.value('vllm:request_success_total{engine="0",finished_reason="error"') == 1

    assert (await dev.client.post("/resume")).json() == {"status": "resumed"}
    assert (await dev.client.get("/is_paused")).json() == {"is_paused": False}
    assert (await dev.post(CHAT, question(max_tokens=2))).status_code == 200


async def test_a_stream_that_is_refused_has_begun(dev: Running) -> None:
    await dev.client.post("/pause")
    answer = await dev.post(CHAT, question(stream=True))
    first, last = answer.text.strip().split("\n\n")
    assert (answer.status_code, last) == (200, "data: [DONE]")
    error = {"message": PAUSED, "type": "InternalServerError", "param": None, "code": 503}
    assert json.loads(first.removeprefix("data: ")) == {"error": error}


async def test_a_pause_that_waits_lets_what_runs_end(dev: Running) -> None:
    before = ask(dev, max_tokens=10, ignore_eos=True)
    await until(dev, RUNNING, 1)
    await dev.client.post("/pause", params={"mode": "wait"})
    assert await dev.value("vllm:generation_tokens_total") == 10
    assert (await before).json()["choices"][0]["finish_reason"] == "length"
    assert (await dev.post(CHAT, question())).status_code == 503


@pytest.mark.parametrize("clear_cache", ["true", "false"])
async def test_a_pause_that_keeps_freezes_what_runs_and_what_comes(dev: Running, clear_cache: str) -> None:
    """They go on afterwards, and to their last token; nothing comes meanwhile, and no burst follows."""
    before = ask(dev, max_tokens=20, ignore_eos=True)
    await until(dev, RUNNING, 1)
    await dev.client.post("/pause", params={"mode": "keep", "clear_cache": clear_cache})
    during = ask(dev, max_tokens=3, ignore_eos=True)
    produced = await dev.value("vllm:generation_tokens_total")
    await asyncio.sleep(0.5)  # longer than the tokens would take
    assert await dev.value("vllm:generation_tokens_total") == produced
    assert not before.done()
    assert not during.done()
    resumed = asyncio.get_running_loop().time()
    await dev.client.post("/resume")
    assert (await before).json()["usage"]["completion_tokens"] == 20
    # Not all of it: tokens that were due before the pause may have been held up by the machine.
    assert asyncio.get_running_loop().time() - resumed > 0.02 * (20 - produced) / 4
    assert (await during).json()["usage"]["completion_tokens"] == 3


async def test_an_unknown_mode_is_told(dev: Running) -> None:
    answer = await dev.client.post("/pause", params={"mode": "nap"})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "Bad Request", "query.mode")
    assert "Input should be 'abort', 'wait' or 'keep'" in error["message"]


# --- sleep -------------------------------------------------------------------------------------------


async def state(dev: Running) -> str:
    names = ("awake", "weights_offloaded", "discard_all")
    found = [
        name
        for name in names
        if await dev.value(f'vllm:engine_sleep_state{{engine="0",model_name="one",sleep_state="{name}"')
    ]
    return found[0] if found else ""


@pytest.mark.parametrize(("level", "expected"), [(0, ""), (1, "weights_offloaded"), (2, "discard_all")])
async def test_nothing_is_served_asleep_and_what_comes_waits(dev: Running, level: int, expected: str) -> None:
    assert await state(dev) == "awake"
    answer = await dev.client.post("/sleep", params={"level": level})
    assert answer.json() == {"status": "sleeping", "level": level}
    assert (await dev.client.get("/is_sleeping")).json() == {"is_sleeping": True}
    assert await state(dev) == expected

    waiting = ask(dev, max_tokens=3)
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert await dev.value(RUNNING) == 0
    assert (await dev.client.get("/health")).status_code == 200

    assert (await dev.client.post("/wake_up")).json() == {"status": "awake", "tags": None}
    assert (await waiting).status_code == 200
    assert (await dev.client.get("/is_sleeping")).json() == {"is_sleeping": False}
    assert await state(dev) == "awake"


async def test_memory_comes_back_part_by_part(dev: Running) -> None:
    await dev.client.post("/sleep")
    waiting = ask(dev, max_tokens=1)
    for tag, status in (("weights", "sleeping"), ("unknown", "sleeping"), ("kv_cache", "awake")):
        assert not waiting.done()
        answer = await dev.client.post("/wake_up", params={"tags": tag})
        assert answer.json() == {"status": status, "tags": [tag]}
    assert (await waiting).status_code == 200


async def test_resuming_does_not_wake(dev: Running) -> None:
    await dev.client.post("/sleep")
    await dev.client.post("/resume")
    assert (await dev.client.get("/is_sleeping")).json() == {"is_sleeping": True}
    waiting = ask(dev, max_tokens=1)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await dev.client.post("/wake_up")
    assert (await waiting).status_code == 200


async def test_waking_takes_the_time_that_was_set(start: Start) -> None:
    dev = await start(http={"developmentMode": True}, lifecycle={"wakeUpDuration": "300ms"})
    await dev.client.post("/sleep")
    loop = asyncio.get_running_loop()
    began = loop.time()
    waking = asyncio.create_task(dev.client.post("/wake_up"))
    await until(dev, 'vllm:sleep_mode_operations_in_flight{operation="wake"}', 1)
    assert (await dev.client.get("/is_sleeping")).json() == {"is_sleeping": True}
    await waking
    assert loop.time() - began >= 0.3
    assert await dev.value('vllm:sleep_mode_operations_in_flight{operation="wake"}') == 0
    assert await dev.value('vllm:sleep_mode_operation_duration_seconds_sum{operation="wake"}') >= 0.3


async def test_sleep_metrics_come_with_the_first_operation(dev: Running) -> None:
    assert "sleep_mode_operation" not in (await dev.client.get("/metrics")).text
    await dev.client.post("/sleep")
    assert await dev.value('vllm:sleep_mode_operation_duration_seconds_count{operation="sleep"}') == 1


@pytest.mark.parametrize(("level", "cached"), [(0, 16), (1, 0)])
async def test_the_prefix_cache_is_gone_after_a_sleep(start: Start, level: int, cached: int) -> None:
    dev = await start(http={"developmentMode": True})
    body = {"prompt": list(range(100, 132)), "max_tokens": 1}
    await dev.post("/v1/completions", body)
    await dev.client.post("/sleep", params={"level": level})
    await dev.client.post("/wake_up")
    await dev.post("/v1/completions", body)
    assert await dev.value("vllm:prefix_cache_hits_total") == cached


async def test_the_kv_cache_alone_is_released_in_a_pause(dev: Running) -> None:
    early = await dev.client.post("/release_kv_cache_memory")
    assert early.status_code == 500
    assert early.json()["error"]["message"].endswith("requires a completed pause first")
    await dev.client.post("/pause")
    assert (await dev.client.post("/release_kv_cache_memory")).json() == {"status": "kv_cache_released"}
    assert await state(dev) == ""
    assert (await dev.client.post("/release_kv_cache_memory")).status_code == 500
    await dev.client.post("/wake_up", params={"tags": "kv_cache"})
    assert (await dev.post(CHAT, question(max_tokens=1))).status_code == 200


async def test_there_are_three_levels(dev: Running) -> None:
    error = (await dev.client.post("/sleep", params={"level": 3})).json()["error"]
    assert (error["code"], error["param"]) == (400, "query.level")
    assert "Input should be less than or equal to 2" in error["message"]


# --- caches, requests, what runs -----------------------------------------------------------------------


async def test_the_prefix_cache_is_forgotten_on_demand(dev: Running) -> None:
    body = {"prompt": list(range(100, 132)), "max_tokens": 1}
    await dev.post("/v1/completions", body)
    assert (await dev.client.post("/reset_prefix_cache")).json() == {"success": True}
    await dev.post("/v1/completions", body)
    assert await dev.value("vllm:prefix_cache_hits_total") == 0


async def test_a_cache_in_use_is_forgotten_only_if_running_requests_may_be_preempted(dev: Running) -> None:
    before = ask(dev, max_tokens=60, ignore_eos=True)
    await until(dev, RUNNING, 1)
    assert (await dev.client.post("/reset_prefix_cache")).json() == {"success": False}
    answer = await dev.client.post("/reset_prefix_cache", params={"reset_running_requests": "true"})
    assert answer.json() == {"success": True}
    assert (await before).json()["usage"]["completion_tokens"] == 60
    assert await dev.value("vllm:num_preemptions_total") == 1


async def test_before_0_26_resetting_tells_nothing(start: Start) -> None:
    dev = await start(http={"developmentMode": True}, engine={"version": "0.25"})
    answer = await dev.client.post("/reset_prefix_cache")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await dev.client.get("/kv_event_sources")).status_code == 404


@pytest.mark.parametrize("path", ["/reset_mm_cache", "/reset_encoder_cache"])
async def test_other_caches_are_reset_without_a_word(dev: Running, path: str) -> None:
    answer = await dev.client.post(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_requests_are_aborted_by_id(dev: Running) -> None:
    named = asyncio.create_task(dev.post(CHAT, question(max_tokens=300, ignore_eos=True), **{"x-request-id": "mine"}))
    several = asyncio.create_task(
        dev.post("/v1/completions", {"prompt": "a", "n": 2, "max_tokens": 300, "ignore_eos": True, "seed": 1})
    )
    await until(dev, RUNNING, 3)
    answer = await dev.client.post("/abort_requests", json={"request_ids": ["chatcmpl-mine", "unknown"]})
    assert answer.json() == {"status": "aborted", "aborted": 2}
    assert (await named).json()["choices"][0]["finish_reason"] == "abort"
    assert not several.done()
    # Without ids all of them: two sequences, and the request that they belong to.
    assert (await dev.client.post("/abort_requests", json={})).json() == {"status": "aborted", "aborted": 3}
    assert [choice["finish_reason"] for choice in (await several).json()["choices"]] == ["abort", "abort"]


@pytest.mark.parametrize(
    ("body", "message"), [("x", "Invalid JSON format"), ("[]", "Request body must be a JSON object")]
)
async def test_a_bad_wish_to_abort_is_told(dev: Running, body: str, message: str) -> None:
    answer = await dev.client.post("/abort_requests", content=body)
    assert answer.json() == {"error": {"message": message, "type": "Bad Request", "param": None, "code": 400}}


async def test_the_server_tells_what_it_runs(dev: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SOMETHING", "1")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    text = (await dev.client.get("/server_info")).json()
    assert set(text) == {"vllm_config", "vllm_env", "system_env"}
    assert text["vllm_config"].startswith("model='org/base', speculative_config=None,")
    assert text["vllm_env"]["VLLM_SOMETHING"] == "1"
    assert "secret" not in str(text)
    as_json = (await dev.client.get("/server_info", params={"config_format": "json"})).json()["vllm_config"]
    assert as_json["model_config"]["max_model_len"] == 512
    assert as_json["scheduler_config"]["max_num_seqs"] == 256
