"""vLLM's flags about the HTTP surface: load, the tokenizer's configuration, documentation, root path, CORS."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulator.api.conftest import Running, Start

from ghostfleet_simulator.config import Http
from ghostfleet_simulator.problems import InvalidInput, validated

SLOW = {"simple": {"timeToFirstToken": 100, "interTokenLatency": 100}}
BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 20, "ignore_eos": True},
    "/v1/completions": {"prompt": "a", "max_tokens": 20, "ignore_eos": True},
    "/inference/v1/generate": {"token_ids": [65], "sampling_params": {"max_tokens": 20, "ignore_eos": True}},
    "/invocations": {"prompt": "a", "max_tokens": 20, "ignore_eos": True, "stream": True},
}


async def load(running: Running) -> int:
    found: int = (await running.client.get("/load")).json()["server_load"]
    return found


async def test_the_load_is_the_requests_in_progress(start: Start) -> None:
    """Streams included, from their coming to their last byte; those that fail, and whose client leaves, as well."""
    running = await start(http={"enableServerLoadTracking": True}, profile=SLOW)
    assert await load(running) == 0
    tasks = [asyncio.create_task(running.post(path, body)) for path, body in BODIES.items()]
    async with asyncio.timeout(5):
        while await load(running) != len(tasks):
            await asyncio.sleep(0.005)
    await running.post("/tokenize", {"prompt": "a"})
    assert await load(running) == len(tasks)
    tasks.pop().cancel()
    await asyncio.gather(*tasks)
    async with asyncio.timeout(5):
        while await load(running):
            await asyncio.sleep(0.005)
    assert (await running.post("/v1/completions", {})).status_code == 400
    assert await load(running) == 0


async def test_without_tracking_the_load_is_always_0(start: Start) -> None:
    running = await start(profile=SLOW)
    task = asyncio.create_task(running.post("/v1/completions", BODIES["/v1/completions"]))
    async with asyncio.timeout(5):
        while await running.value("vllm:num_requests_running{") != 1:
            await asyncio.sleep(0.005)
    assert await load(running) == 0
    await task


async def test_the_tokenizer_tells_its_configuration_where_that_is_wanted(start: Start, running: Running) -> None:
    assert (await running.client.get("/tokenizer_info")).status_code == 404
    telling = await start(http={"enableTokenizerInfoEndpoint": True})
    info = (await telling.client.get("/tokenizer_info")).json()
    assert info["tokenizer_class"] == "CachedPreTrainedTokenizerFast"
    assert info["eos_token"] == "<|im_end|>"
    assert "add_generation_prompt" in info["chat_template"]


async def test_documentation_can_be_switched_off(start: Start, running: Running) -> None:
    silent = await start(http={"disableFastapiDocs": True})
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert (await running.client.get(path)).status_code == 200
        assert (await silent.client.get(path)).status_code == 404


async def test_the_document_tells_of_every_route_that_is_there(start: Start, running: Running) -> None:
    document = (await running.client.get("/openapi.json")).json()
    assert document["info"]["version"] == "0.33.0"
    development = await start(http={"developmentMode": True})
    more = (await development.client.get("/openapi.json")).json()
    assert set(more["paths"]) - set(document["paths"]) == {
        *("/pause", "/resume", "/is_paused", "/abort_requests", "/sleep", "/wake_up", "/release_kv_cache_memory"),
        *("/is_sleeping", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/server_info"),
    }


async def test_routes_are_found_with_and_without_the_root_path(start: Start) -> None:
    running = await start(http={"rootPath": "/team/a"})
    for prefix in ("", "/team/a"):
        assert (await running.client.get(f"{prefix}/v1/models")).status_code == 200
        answer = await running.post(f"{prefix}/v1/completions", {"prompt": "a", "max_tokens": 1})
        assert answer.status_code == 200, prefix
    assert (await running.client.get("/openapi.json")).json()["servers"] == [{"url": "/team/a"}]


async def test_pages_of_every_origin_may_call_unless_some_are_named(start: Start, running: Running) -> None:
    async def allowed(server: Running, origin: str) -> str | None:
        answer = await server.client.get("/v1/models", headers={"origin": origin})
        return answer.headers.get("access-control-allow-origin")

    assert await allowed(running, "https://a.example") == "*"
    named = await start(http={"allowedOrigins": ["https://a.example"], "allowCredentials": True})
    assert await allowed(named, "https://a.example") == "https://a.example"
    assert await allowed(named, "https://b.example") is None


async def test_methods_and_headers_are_allowed_as_they_are_named(start: Start) -> None:
    running = await start(http={"allowedMethods": ["POST"], "allowedHeaders": ["x-mine"]})

    async def preflight(method: str, header: str) -> int:
        asked = {"origin": "https://a.example", "access-control-request-method": method}
        answer = await running.client.options("/v1/models", headers=asked | {"access-control-request-headers": header})
        return answer.status_code

    assert await preflight("POST", "x-mine") == 200
    assert await preflight("GET", "x-mine") == 400
    assert await preflight("POST", "x-other") == 400


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "b"], ("a", "b")),
        (['["a", "b"]'], ("a", "b")),
        (['["a",', '"b"]'], ("a", "b")),
        ([], ()),
    ],
)
def test_lists_are_taken_as_vllms_command_line_has_them(given: object, expected: tuple[str, ...]) -> None:
    assert validated(Http, {"allowedOrigins": given}).allowed_origins == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"allowedOrigins": ['["a"']}, "allowedOrigins: not a JSON list: "),
        ({"allowedOrigins": [""]}, "allowedOrigins[0]: "),
        ({"rootPath": "team"}, "rootPath: "),
    ],
)
def test_what_makes_no_sense_is_told(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validated(Http, given)
    assert message in str(caught.value)
