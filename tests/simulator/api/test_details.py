"""What answers tell on demand, by request or by flag: token ids, cached tokens, times, load."""

from __future__ import annotations

import asyncio
import re

import pytest

from .conftest import Running, Start
from .test_logprobs import CHAT, COMPLETION, PROMPT, body, chat, frames

USAGE = {"stream": True, "stream_options": {"include_usage": True}}


async def test_token_ids_come_with_answers_and_prompts(running: Running) -> None:
    answer = await body(running, CHAT, chat(return_token_ids=True, return_prompt_text=True))
    tokenizer = running.server.tokenizer
    assert answer["prompt_text"].count(PROMPT) == 1
    assert answer["prompt_token_ids"] == tokenizer.encode(answer["prompt_text"], add_special_tokens=False)
    assert tokenizer.decode(answer["choices"][0]["token_ids"]) == answer["choices"][0]["message"]["content"]
    request = {"prompt": [PROMPT, "Two"], "n": 2, "return_token_ids": True}
    choices = (await body(running, COMPLETION, request))["choices"]
    assert [tokenizer.decode(choice["prompt_token_ids"]) for choice in choices] == [PROMPT, PROMPT, "Two", "Two"]
    assert [tokenizer.decode(choice["token_ids"]) for choice in choices] == [choice["text"] for choice in choices]


async def test_a_stream_tells_the_prompts_tokens_once_per_choice(running: Running) -> None:
    response = await running.post(CHAT, chat(return_token_ids=True, return_prompt_text=True, n=2, stream=True))
    roles, rest = frames(response.text)[:2], frames(response.text)[2:]
    assert [len(role["prompt_token_ids"]) > 3 for role in roles] == [True, True]
    assert PROMPT in roles[1]["prompt_text"]
    assert not any("prompt_token_ids" in chunk for chunk in rest)
    response = await running.post(COMPLETION, {"prompt": PROMPT, "return_token_ids": True, "stream": True})
    first, second, *_ = (chunk["choices"][0] for chunk in frames(response.text))
    assert running.server.tokenizer.decode(first["prompt_token_ids"]) == PROMPT
    assert (len(first["token_ids"]), second["prompt_token_ids"]) == (1, None)


async def test_echoed_token_ids_take_the_place_of_the_echoed_text(running: Running) -> None:
    answer = await body(running, COMPLETION, {"prompt": PROMPT, "echo": True, "return_token_ids": True})
    assert not answer["choices"][0]["text"].startswith(PROMPT + PROMPT[:1])
    assert running.server.tokenizer.decode(answer["choices"][0]["prompt_token_ids"]) == PROMPT


@pytest.mark.parametrize(("server", "request_", "interval"), [(1, 4, 4), (5, 2, 5), (3, None, 3)])
async def test_chunks_hold_an_interval_of_tokens(
    start: Start, server: int, request_: int | None, interval: int
) -> None:
    """The first token comes alone, the last chunk has what is left; the greater of both intervals counts."""
    running = await start(api={"streamInterval": server})
    request = {"prompt": PROMPT * 4, "max_tokens": 20, "return_token_ids": True, "stream": True}
    response = await running.post(COMPLETION, request if request_ is None else {**request, "stream_interval": request_})
    counts = [len(chunk["choices"][0]["token_ids"]) for chunk in frames(response.text)]
    assert counts[0] == 1
    assert set(counts[1:-1]) == {interval}
    assert sum(counts) == 20


async def test_usage_can_be_forced_on_every_stream(start: Start) -> None:
    running = await start(api={"enableForceIncludeUsage": True})
    *chunks, last = frames((await running.post(CHAT, chat(stream=True, max_tokens=3))).text)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)


async def test_cached_tokens_are_told_where_the_server_says_so(start: Start) -> None:
    """A chat tells what it added to the cache, too; a completion does not (vLLM 0.33)."""
    running = await start(api={"enablePromptTokensDetails": True})
    prompt = "The old bridge had stood for centuries. " * 8
    first = await body(running, COMPLETION, {"prompt": prompt})
    details = {"cached_tokens": 0, "created_cache_tokens": None, "multimodal_tokens": None}
    assert first["usage"]["prompt_tokens_details"] == details
    again = await body(running, COMPLETION, {"prompt": prompt})
    cached = (first["usage"]["prompt_tokens"] - 1) // 16 * 16
    assert again["usage"]["prompt_tokens_details"] == {**details, "cached_tokens": cached}
    *_, last = frames((await running.post(COMPLETION, {"prompt": prompt, **USAGE})).text)
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}
    request = {"messages": [{"role": "user", "content": prompt}]}
    chatted = await body(running, CHAT, request)
    created = chatted["usage"]["prompt_tokens"] // 16 * 16
    assert chatted["usage"]["prompt_tokens_details"] == {**details, "created_cache_tokens": created}
    *_, last = frames((await running.post(CHAT, {**request, **USAGE})).text)
    assert list(last["usage"]["prompt_tokens_details"]) == ["cached_tokens", "created_cache_tokens"]


async def test_times_of_a_request_are_told_where_the_server_says_so(start: Start) -> None:
    running = await start(
        api={"enablePerRequestMetrics": True},
        profile={"simple": {"timeToFirstToken": 60, "interTokenLatency": 20}},
    )
    metrics = (await body(running, CHAT, chat(max_tokens=4)))["metrics"]
    assert list(metrics) == [
        "time_to_first_token_ms",
        "generation_time_ms",
        "queue_time_ms",
        "mean_itl_ms",
        "tokens_per_second",
        "speculative_decoding",
    ]
    assert metrics["speculative_decoding"] is None
    assert 55 < metrics["time_to_first_token_ms"] < 200
    assert metrics["mean_itl_ms"] == pytest.approx(metrics["generation_time_ms"] / 3)
    elapsed = metrics["time_to_first_token_ms"] + metrics["generation_time_ms"]
    assert metrics["tokens_per_second"] == pytest.approx(4 / elapsed * 1000)
    *_, last = frames((await running.post(COMPLETION, {"prompt": PROMPT, "max_tokens": 2, **USAGE})).text)
    assert next(iter(last["metrics"])) == "time_to_first_token_ms"
    assert "speculative_decoding" not in last["metrics"]
    assert (await body(running, CHAT, chat(n=2, max_tokens=1)))["metrics"] is None


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        ("TEXT", r"TEXT named_metrics\.num_requests_waiting=0\.0, named_metrics\.kv_cache_usage_perc=[0-9.e-]+"),
        ("json", r'JSON {"named_metrics": {"num_requests_waiting": 0\.0, "kv_cache_usage_perc": [0-9.e-]+}}'),
    ],
)
async def test_the_load_is_told_in_a_header_of_an_answer_in_one_piece(
    running: Running, wanted: str, pattern: str
) -> None:
    header = {"endpoint-load-metrics-format": wanted}
    response = await running.post(CHAT, chat(max_tokens=1), **header)
    assert re.fullmatch(pattern, response.headers["endpoint-load-metrics"])
    for request in (chat(stream=True, max_tokens=1), chat(model="none")):
        assert "endpoint-load-metrics" not in (await running.post(CHAT, request, **header)).headers
    unknown = await running.post(CHAT, chat(max_tokens=1), **{"endpoint-load-metrics-format": "xml"})
    assert "endpoint-load-metrics" not in unknown.headers


async def test_every_answer_has_a_request_id_where_the_server_says_so(start: Start) -> None:
    running = await start(api={"enableRequestIdHeaders": True})
    assert (await running.client.get("/health", headers={"X-Request-Id": "mine"})).headers["x-request-id"] == "mine"
    response = await running.post(CHAT, chat(max_tokens=1))
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    assert (await running.client.get("/nowhere")).headers["x-request-id"]
    plain = await start()
    assert "x-request-id" not in (await plain.client.get("/health", headers={"X-Request-Id": "mine"})).headers


async def test_a_silent_stream_gets_comments(start: Start) -> None:
    running = await start(
        api={"sseKeepAliveSeconds": 1},
        profile={"simple": {"timeToFirstToken": 2700, "interTokenLatency": 1}},
    )
    response = await running.post(CHAT, chat(stream=True, max_tokens=3))
    assert response.text.startswith(": keep-alive\n\n: keep-alive\n\ndata: ")
    assert response.text.count("keep-alive") == 2
    data = response.text.replace(": keep-alive\n\n", "")
    assert len(frames(data)) == 4


async def test_requests_beyond_the_queue_limit_are_turned_away(start: Start) -> None:
    running = await start(
        scheduling={"maxNumQueuedReqs": 2},
        profile={"simple": {"timeToFirstToken": 300}},
    )
    first = asyncio.create_task(running.post(CHAT, chat(max_tokens=1)))
    await asyncio.sleep(0.1)
    for request in (chat(n=2), chat(n=2, stream=True)):
        refused = await running.post(CHAT, request)
        assert refused.status_code == 503
        assert refused.json()["error"] == {
            "message": "The engine is currently busy and cannot accept new requests. Please try again later or on a "
            "different instance.",
            "type": "Service Unavailable",
            "param": None,
            "code": 503,
        }
    assert (await running.post(CHAT, chat(n=2, model="none"))).status_code == 404
    assert (await running.post(CHAT, chat(max_tokens=1))).status_code == 200
    assert (await first).status_code == 200
    assert await running.value('vllm:admission_rejections_total{model_name="one",reason="max_num_queued_reqs"}') == 2


async def test_prompts_beyond_the_limit_end_a_stream_that_has_begun(start: Start) -> None:
    """vLLM looks at every prompt again when it queues it."""
    running = await start(scheduling={"maxNumQueuedReqs": 2})
    request = {"prompt": ["a", "b", "c"], "max_tokens": 1}
    assert (await running.post(COMPLETION, request)).status_code == 503
    response = await running.post(COMPLETION, {**request, "stream": True})
    assert response.status_code == 200
    (frame,) = frames(response.text)
    assert frame["error"]["code"] == 503


async def test_a_backlog_of_prompt_tokens_turns_requests_away(start: Start) -> None:
    running = await start(
        scheduling={"maxNumQueuedTokens": 10},
        profile={"simple": {"timeToFirstToken": 300, "interTokenLatency": 30}},
    )
    long = {"prompt": PROMPT * 5, "max_tokens": 10}
    first = asyncio.create_task(running.post(COMPLETION, long))
    await asyncio.sleep(0.1)
    refused = await running.post(COMPLETION, {"prompt": "x", "max_tokens": 1})
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == (
        "The engine has reached its prefill token backlog limit. Please try again later or on a different instance."
    )
    await asyncio.sleep(0.3)
    assert (await running.post(COMPLETION, {"prompt": "x", "max_tokens": 1})).status_code == 200
    assert (await first).status_code == 200


async def test_api_keys_guard_what_vllm_guards(start: Start) -> None:
    """Any of the keys does; health, metrics and the tokenizer need none, nor does a browser's preflight request."""
    running = await start(api_keys=("first", "second"))
    client = running.client

    async def status(path: str, **headers: str) -> int:
        return (await client.get(path, headers=headers)).status_code

    refused = await client.post(CHAT, json=chat())
    assert (refused.status_code, refused.content) == (401, b'{"error":"Unauthorized"}')
    assert refused.headers["content-type"] == "application/json"
    for value in ("Bearer first", "bearer second", "BEARER first"):
        assert await status("/v1/models", Authorization=value) == 200
    for value in ("first", "Basic first", "Bearer", "Bearer third", "Bearer  first", "Bearer first "[:-2]):
        assert await status("/v1/models", Authorization=value) == 401
    assert await status("/v1/nowhere") == 401
    assert await status("/inference/anything") == 401
    assert [await status(path) for path in ("/health", "/metrics", "/version", "/nowhere")] == [200, 200, 200, 404]
    assert (await client.post("/tokenize", json={"prompt": "x"})).status_code == 200
    preflight = {"Origin": "http://x", "Access-Control-Request-Method": "POST"}
    assert (await client.options(CHAT, headers=preflight)).status_code == 200
