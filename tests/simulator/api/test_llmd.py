"""The routes of llm-d-inference-sim on the serving port: there where asked for, with their effect."""

from __future__ import annotations

from typing import Any

import pytest
from tests.simulator.api.conftest import Running, Start

ROUTES = (
    ("GET", "/admin/config"),
    ("POST", "/admin/config"),
    ("POST", "/fake_metrics"),
    ("GET", "/health/ready"),
    ("GET", "/query"),
)


@pytest.fixture
async def llmd(start: Start) -> Running:
    return await start(http={"llmdSimRoutes": True})


async def change(llmd: Running, body: Any) -> dict[str, Any]:
    answer = await llmd.client.post("/admin/config", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert told == (await llmd.client.get("/admin/config")).json()
    return told


async def test_they_are_not_there_unless_asked_for(running: Running) -> None:
    for method, path in ROUTES:
        assert (await running.client.request(method, path)).status_code == 404, path


async def test_the_configuration_has_its_names_and_go_durations(start: Start) -> None:
    llmd = await start(http={"llmdSimRoutes": True}, profile={"simple": {"timeToFirstToken": "90s"}})
    told = (await llmd.client.get("/admin/config")).json()
    assert (told["time-to-first-token"], told["inter-token-latency"], told["render-timeout"]) == ("1m30s", "0s", "30s")
    assert (told["model"], told["served-model-name"], told["mode"]) == ("org/base", ["one", "two"], "echo")
    assert (told["failure-injection-rate"], told["failure-types"], told["fake-metrics"]) == (0, [], None)
    assert told["DisplayModelName"] == "one"


async def test_ranks_do_not_tell_one_port(start: Start) -> None:
    llmd = await start(http={"llmdSimRoutes": True}, dataParallelSize=2)
    assert "port" not in (await llmd.client.get("/admin/config")).json()
    assert list((await llmd.client.get("/query")).json()) == ["0", "1"]


async def test_durations_are_strings_or_whole_nanoseconds(llmd: Running) -> None:
    told = await change(llmd, {"time-to-first-token": "1.5s", "inter-token-latency": 2_500_000})
    assert (told["time-to-first-token"], told["inter-token-latency"]) == ("1.5s", "2.5ms")
    simple = llmd.server.in_force.document.config.profile.simple
    assert (simple.time_to_first_token.us, simple.inter_token_latency.us) == (1_500_000, 2_500)
    told = await change(
        llmd, {"time-to-first-token": "0", "latency-calculator": "per-token", "time-factor-under-load": 2.5}
    )
    assert (told["time-to-first-token"], told["inter-token-latency"]) == ("0s", "2.5ms")
    assert (told["latency-calculator"], told["time-factor-under-load"]) == ("per-token", 2.5)


async def test_failures_come_and_go(llmd: Running) -> None:
    told = await change(llmd, {"failure-injection-rate": 100, "failure-types": ["rate_limit"]})
    assert (told["failure-injection-rate"], told["failure-types"]) == (100, ["rate_limit"])
    answer = await llmd.post("/v1/completions", {"model": "one", "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "RateLimitError")
    await change(llmd, {"failure-injection-rate": 0})
    assert (await llmd.post("/v1/completions", {"model": "one", "prompt": "x"})).status_code == 200


async def test_failures_of_other_types_stay(start: Start) -> None:
    hang = {"type": "Hang", "probability": "0.1", "duration": "1s"}
    llmd = await start(http={"llmdSimRoutes": True}, failures=[hang])
    await change(llmd, {"failure-injection-rate": 60})
    types = [failure.type.value for failure in llmd.server.in_force.document.config.failures]
    assert types[0] == "Hang"
    assert len(types) == 7


async def test_fake_metrics_are_changed_one_by_one(llmd: Running) -> None:
    """It takes them only where it was started with some; here they can be had at any time."""
    usage, running = "vllm:kv_cache_usage_perc{", "vllm:num_requests_running{"
    told = await change(llmd, {"fake-metrics": {"kv-cache-usage": 0.5, "running-requests": 7}})
    assert told["fake-metrics"] == {"kv-cache-usage": 0.5, "running-requests": 7}
    assert (await llmd.value(usage), await llmd.value(running)) == (0.5, 7)
    assert (
        await llmd.client.post("/fake_metrics", json={"kv-cache-usage": 0.25, "running-requests": None})
    ).status_code == 204
    assert (await llmd.value(usage), await llmd.value(running)) == (0.25, 7)
    one, other = ({"running": name, "waiting": "", "timestamp": 5} for name in ("a", "b"))
    await change(llmd, {"fake-metrics": {"loras": [one]}})
    await change(llmd, {"fake-metrics": {"loras": [other]}})
    fakes = llmd.server.in_force.document.config.fake_metrics
    assert [name for name in fakes if "lora" in name] == [
        'vllm:lora_requests_info{max_lora="1",running_lora_adapters="b",waiting_lora_adapters=""}'
    ]
    told = await change(llmd, {"fake-metrics": {"loras": []}})
    assert told["fake-metrics"] == {"kv-cache-usage": 0.25, "running-requests": 7}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "failed to unmarshal payload"),
        (b"[]", "failed to unmarshal payload"),
        (b'{"port": 1}', "field 'port' is not admin-configurable"),
        (b'{"nope": 1}', "field 'nope' is not admin-configurable"),
        (b'{"inter-token-latency": "5"}', "inter-token-latency: '5' is not a duration"),
        (b'{"inter-token-latency": -1}', "inter-token-latency: "),
        (b'{"time-to-first-token": "1s", "time-to-first-token-std-dev": "400ms"}', "cannot be more than 30%"),
        (b'{"failure-injection-rate": 101}', "failure-injection-rate: "),
        (b'{"failure-types": ["x"]}', "failure-types[0]: "),
        (b'{"time-factor-under-load": 0.5}', "time-factor-under-load: "),
        (b'{"fake-metrics": {"running": 1}}', "did you mean 'running-requests'?"),
        (b'{"fake-metrics": 3}', "fake-metrics: must be an object"),
    ],
)
async def test_what_is_wrong_changes_nothing(llmd: Running, body: bytes, message: str) -> None:
    before = (await llmd.client.get("/admin/config")).json()
    answer = await llmd.client.post("/admin/config", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("BadRequestError", None, 400)
    assert message in error["message"]
    assert (await llmd.client.get("/admin/config")).json() == before


async def test_times_are_refused_where_another_model_of_times_is_in_use(start: Start) -> None:
    llmd = await start(
        http={"llmdSimRoutes": True}, profile={"backend": "StepTime", "stepTime": {"baseUs": 100, "perTokenUs": 1}}
    )
    answer = await llmd.client.post("/admin/config", json={"time-to-first-token": "1s"})
    assert (answer.status_code, "StepTime" in answer.text) == (400, True)


async def test_a_server_can_be_there_before_it_is_ready(start: Start) -> None:
    soon = await start(http={"llmdSimRoutes": True})
    assert (await soon.client.get("/health/ready")).status_code == 200
    late = await start(http={"llmdSimRoutes": True}, lifecycle={"readyAfter": "1h"})
    answer = await late.client.get("/health/ready")
    assert (answer.status_code, answer.content) == (503, b"")
    assert (await late.client.get("/health")).status_code == 200
    assert (await late.post("/v1/completions", {"model": "one", "prompt": "x"})).status_code == 200
    assert late.server.unready == "starting"


async def test_engines_have_ids_that_stay(llmd: Running) -> None:
    """What a sidecar asks with Mooncake, on the serving port."""
    told = (await llmd.client.get("/query")).json()
    assert list(told) == ["0"]
    assert len(told["0"]["engine_id"]) == 36
    assert told == (await llmd.client.get("/query")).json()


async def test_sleep_changes_nothing_without_development_mode(llmd: Running) -> None:
    for path in ("/sleep", "/wake_up"):
        answer = await llmd.client.post(path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert (await llmd.client.get("/is_sleeping")).json() == {"is_sleeping": False}
    assert (await llmd.post("/v1/completions", {"model": "one", "prompt": "x"})).status_code == 200


# --- what requests meet ------------------------------------------------------------------------------


async def test_a_completion_without_a_limit_may_go_to_the_end(start: Start) -> None:
    prompt = "one two three " * 20
    for settings, reason in (({"completionsToTheEnd": True}, "stop"), ({}, "length")):
        server = await start(api=settings)
        for body in ({"model": "one", "prompt": prompt}, {"model": "one", "prompt": prompt, "max_tokens": None}):
            choice = (await server.post("/v1/completions", body)).json()["choices"][0]
            assert choice["finish_reason"] == reason
            assert (choice["text"] == prompt) is (reason == "stop")


async def test_requests_beyond_the_waiting_queue_get_429(start: Start) -> None:
    server = await start(
        scheduling={"maxNumSeqs": 1, "maxWaitingRequests": 1}, profile={"simple": {"timeToFirstToken": "1h"}}
    )
    bodies = {"model": "one", "prompt": ["x", "y"], "stream": True}
    async with server.client.stream("POST", "/v1/completions", json=bodies) as first:
        assert first.status_code == 200
        for stream in (True, False):
            answer = await server.post("/v1/completions", {"model": "one", "prompt": "z", "stream": stream})
            assert (answer.status_code, answer.json()["error"]) == (
                429,
                {
                    "message": "Failed to enqueue request, waiting requests queue is full",
                    "type": "RateLimitError",
                    "param": None,
                    "code": 429,
                },
            )
