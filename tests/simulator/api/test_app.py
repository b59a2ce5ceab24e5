"""The API of a running server over real connections: routes, headers, metrics, streams, failures."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from ghostfleet_simulator.text.tokenizer import Tokenizer

from .conftest import Running, Start

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chat(text: str = "Hello there", **fields: Any) -> dict[str, Any]:
    return {"model": "one", "messages": [{"role": "user", "content": text}], **fields}


async def frames(running: Running, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of every frame of a stream; `[DONE]` must be the last and is left out."""
    response = await running.post(path, body)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["transfer-encoding"] == "chunked"
    *data, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in data]


def said(chunks: list[Any], index: int = 0) -> str:
    """Text of one choice of a stream."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


# --- routes ---------------------------------------------------------------------------------------


async def test_health_and_ping_are_empty(running: Running) -> None:
    """Probes get 200 without a body, ping also by POST."""
    for method, path in (("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")):
        response = await running.client.request(method, path)
        assert (response.status_code, response.content) == (200, b"")
        assert "content-type" not in response.headers


async def test_small_facts(running: Running) -> None:
    """Version, load and KV event sources as a plain vLLM 0.33 gives them."""
    assert (await running.client.get("/version")).json() == {"version": "0.33.0"}
    assert (await running.client.get("/load")).json() == {"server_load": 0}
    assert (await running.client.get("/kv_event_sources")).json() == {}


async def test_every_served_name_is_a_model(running: Running) -> None:
    """One card per alias with its permission, in vLLM's order of keys; `root` is the model's own name."""
    body = (await running.client.get("/v1/models")).json()
    assert [card["id"] for card in body["data"]] == ["one", "two"]
    card = body["data"][0]
    created, permission = card["created"], card["permission"]
    assert list(card.items()) == [
        ("id", "one"),
        ("object", "model"),
        ("created", created),
        ("owned_by", "vllm"),
        ("root", "org/base"),
        ("parent", None),
        ("max_model_len", 512),
        ("permission", permission),
    ]
    assert permission[0].pop("id").startswith("modelperm-")
    assert permission == [
        {
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
    ]


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/nowhere", 404, "Not Found"),
        ("GET", "/v1/models/one", 404, "Not Found"),
        ("GET", CHAT, 405, "Method Not Allowed"),
        ("POST", "/health", 405, "Method Not Allowed"),
    ],
)
async def test_unknown_paths_and_methods(running: Running, method: str, path: str, status: int, detail: str) -> None:
    """The router's own answers keep FastAPI's shape, as in vLLM."""
    response = await running.client.request(method, path)
    assert (response.status_code, response.json()) == (status, {"detail": detail})


async def test_the_api_describes_itself(running: Running) -> None:
    """The OpenAPI document names every route with the body it takes and what it answers."""
    document = (await running.client.get("/openapi.json")).json()
    assert {CHAT, TEXT, "/tokenize", "/detokenize", "/v1/models", "/metrics"} <= document["paths"].keys()
    operation = document["paths"][CHAT]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert {"messages", "max_tokens", "stream_options"} <= schema["properties"].keys()
    assert {"200", "400", "404"} <= operation["responses"].keys()
    references = [part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]]
    assert set(references) <= document["components"]["schemas"].keys()
    assert (await running.client.get("/docs")).status_code == 200


async def test_browsers_may_call_from_anywhere(running: Running) -> None:
    """CORS is open, and a preflight request is not counted."""
    preflight = await running.client.options(
        CHAT, headers={"Origin": "http://x", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.headers["access-control-allow-origin"] == "*"
    answer = await running.client.get("/v1/models", headers={"Origin": "http://x"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert await running.value('http_requests_total{handler="/v1/chat/completions",method="OPTIONS"') == 0


# --- the tokenizer --------------------------------------------------------------------------------


async def test_tokenize_and_detokenize_go_round(running: Running, tokenizer: Tokenizer) -> None:
    """What is tokenized comes back; load generators count with it."""
    body = (await running.post("/tokenize", {"prompt": "Hello, wörld 😀", "return_token_strs": True})).json()
    assert list(body) == ["count", "max_model_len", "tokens", "token_strs"]
    assert (body["count"], body["max_model_len"]) == (len(body["tokens"]), 512)
    assert body["token_strs"] == tokenizer.token_strings(body["tokens"])
    text = (await running.post("/detokenize", {"model": "two", "tokens": body["tokens"]})).json()
    assert text == {"prompt": "Hello, wörld 😀"}


async def test_tokenize_counts_a_chat_as_the_chat_does(running: Running) -> None:
    """The conversation goes through the same template, so the counts agree with the usage."""
    tokens = (await running.post("/tokenize", chat())).json()
    usage = (await running.post(CHAT, chat())).json()["usage"]
    assert tokens["count"] == usage["prompt_tokens"]
    assert tokens["token_strs"] is None


async def test_tokenize_has_no_limit(running: Running) -> None:
    """A text far beyond the context, large enough to be read in a thread, is still counted."""
    body = (await running.post("/tokenize", {"prompt": "word " * 50_000})).json()
    assert body["count"] >= 50_000


async def test_the_tokenizer_refuses_unknown_models(running: Running) -> None:
    """As the generation endpoints do."""
    for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
        response = await running.post(path, {"model": "three", **body})
        assert (response.status_code, response.json()["error"]["type"]) == (404, "NotFoundError")


# --- generation -----------------------------------------------------------------------------------


async def test_a_whole_chat(running: Running, tokenizer: Tokenizer) -> None:
    """An echoing server says the last message; usage counts the end-of-sequence token as vLLM does."""
    response = await running.post(CHAT, chat("What is this?"), **{"X-Request-Id": "abc"})
    body = response.json()
    choice = body["choices"][0]
    assert (body["id"], body["model"], body["object"]) == ("chatcmpl-abc", "one", "chat.completion")
    assert choice["message"]["content"] == "What is this?"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    usage = body["usage"]
    assert usage["completion_tokens"] == len(tokenizer.encode("What is this?", False)) + 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert body["system_fingerprint"].startswith("vllm-0.33.0-")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_a_stream_says_what_the_whole_says(running: Running, path: str) -> None:
    """Text, finish reason and usage are the same, streamed or not; every chunk has the same id and moment."""
    body = chat("One two three") if path == CHAT else {"prompt": "One two three", "max_tokens": 50}
    whole = (await running.post(path, body)).json()
    chunks = await frames(running, path, {**body, "stream": True, "stream_options": {"include_usage": True}})
    *parts, usage = chunks
    answer = whole["choices"][0]
    assert said(parts) == (answer["message"]["content"] if path == CHAT else answer["text"]) != ""
    assert parts[-1]["choices"][0]["finish_reason"] == answer["finish_reason"]
    assert usage["choices"] == []
    assert usage["usage"] == {key: whole["usage"][key] for key in usage["usage"]}
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1
    assert len(parts) == whole["usage"]["completion_tokens"] + (path == CHAT)


async def test_a_chat_stream_begins_with_the_role(running: Running) -> None:
    """The first chunk has the role and no text."""
    first, *_ = await frames(running, CHAT, chat(stream=True))
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]


async def test_usage_all_along(running: Running) -> None:
    """With continuous_usage_stats the count grows by one with every token, from 0 in the role chunk."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await frames(running, CHAT, chat("One two three four", stream=True, stream_options=options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]]
    assert counts == list(range(len(counts)))


async def test_choices_of_prompts_are_numbered_through(running: Running) -> None:
    """Two prompts with n=2 give choices 0 to 3; prompts are counted once, answers each."""
    body = {"prompt": ["First one", "Second one"], "n": 2, "max_tokens": 50}
    whole = (await running.post(TEXT, body)).json()
    assert [(c["index"], c["text"]) for c in whole["choices"]] == [
        (0, "First one"),
        (1, "First one"),
        (2, "Second one"),
        (3, "Second one"),
    ]
    chunks = await frames(running, TEXT, {**body, "stream": True})
    assert [said(chunks, index) for index in range(4)] == ["First one", "First one", "Second one", "Second one"]


async def test_max_tokens_cuts_an_answer(running: Running) -> None:
    """Exactly so many tokens, and the reason is `length`."""
    for stream in (False, True):
        body = chat("One two three four five six", max_tokens=3, stream=stream)
        if stream:
            last = (await frames(running, CHAT, body))[-1]["choices"][0]
        else:
            whole = (await running.post(CHAT, body)).json()
            last = whole["choices"][0]
            assert whole["usage"]["completion_tokens"] == 3
        assert (last["finish_reason"], last["stop_reason"]) == ("length", None)


@pytest.mark.parametrize("keep", [False, True])
async def test_a_stop_string_ends_an_answer(running: Running, keep: bool) -> None:
    """The text ends before the stop string, or with it where the client wants it; the reason names it."""
    body = chat("One two three four five", stop=["three"], include_stop_str_in_output=keep)
    expected = "One two three" if keep else "One two "
    whole = (await running.post(CHAT, body)).json()["choices"][0]
    chunks = await frames(running, CHAT, {**body, "stream": True})
    last = chunks[-1]["choices"][0]
    assert whole["message"]["content"] == said(chunks) == expected
    assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", "three")
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "three")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion_with_its_prompt(running: Running, stream: bool) -> None:
    """`echo` puts the prompt before the answer; with max_tokens 0 the prompt is all."""
    for limit, expected in ((50, "Say itSay it"), (0, "Say it")):
        body = {"prompt": "Say it", "echo": True, "max_tokens": limit, "stream": stream}
        if stream:
            assert said(await frames(running, TEXT, body)) == expected
        else:
            assert (await running.post(TEXT, body)).json()["choices"][0]["text"] == expected


async def test_what_the_engine_refuses(running: Running) -> None:
    """Without streaming it is a 400; a stream had begun by then, so the refusal is a frame of it."""
    body: dict[str, Any] = {"prompt": [999_999_999]}
    for path, request in ((TEXT, body), (CHAT, chat(stop_token_ids=[-1]))):
        plain = await running.post(path, request)
        assert (plain.status_code, plain.json()["error"]["type"]) == (400, "BadRequestError")
        assert await frames(running, path, {**request, "stream": True}) == [plain.json()]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_refused_before_has_a_status(running: Running, stream: bool) -> None:
    """An unknown model is a 404 and a prompt too long a 400 even if a stream was asked for."""
    unknown = await running.post(CHAT, chat(model="three", stream=stream))
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    long = await running.post(CHAT, chat("word " * 600, stream=stream))
    assert (long.status_code, long.json()["error"]["param"]) == (400, "input_tokens")
    broken = await running.client.post(CHAT, content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "Bad Request")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_its_place(start: Start, stream: bool) -> None:
    """The sequence is aborted at once and counted nowhere as finished."""
    running = await start(profile={"simple": {"timeToFirstToken": 50, "interTokenLatency": 50}})
    body = chat(stream=stream, ignore_eos=True, max_tokens=400)
    if stream:
        async with running.client.stream("POST", CHAT, json=body) as response:
            await anext(response.aiter_bytes())
            assert running.server.running == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            await running.client.post(CHAT, json=body, timeout=0.2)
    for _ in range(100):
        if running.server.running == 0:
            break
        await asyncio.sleep(0.01)
    assert running.server.running == 0
    assert running.server.kv_usage == 0
    assert await running.value("vllm:request_success_total") == 0


# --- headers and metrics --------------------------------------------------------------------------


async def test_answers_name_the_pod(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed or not, as the end-to-end tests of llm-d's scheduler read it; the namespace by either variable."""
    monkeypatch.setenv("POD_NAME", "pod-7")
    monkeypatch.setenv("NAMESPACE", "fleet")
    running = await start()
    for stream in (False, True):
        headers = (await running.post(CHAT, chat(stream=stream))).headers
        told = {name: value for name, value in headers.items() if name.startswith("x-inference-")}
        port = str(running.server.config.listen.port)
        assert told == {"x-inference-pod": "pod-7", "x-inference-namespace": "fleet", "x-inference-port": port}


async def test_answers_outside_of_pods_name_none(running: Running) -> None:
    """As a vLLM's do not."""
    assert not [name for name in (await running.post(CHAT, chat())).headers if name.startswith("x-inference-")]


async def test_answers_name_the_revision_in_force(running: Running) -> None:
    """Whatever the answer, it tells which configuration made it."""
    for response in (
        await running.post(CHAT, chat()),
        await running.post(CHAT, chat(stream=True)),
        await running.client.get("/nowhere"),
        await running.post(CHAT, {}),
    ):
        assert response.headers["x-ghostfleet-revision"] == "0"
    running.server.patch({"answers": {"mode": "Random"}})
    running.server.offer(
        type(running.server.in_force.document).of(running.server.config, 7),
    )
    assert (await running.post(CHAT, chat())).headers["x-ghostfleet-revision"] == "7"


async def test_requests_are_counted_by_route(running: Running) -> None:
    """As prometheus-fastapi-instrumentator does: template or `none`, status class, and probes left out."""
    await running.post(CHAT, chat())
    await running.post(CHAT, chat(stream=True))
    await running.post(CHAT, {})
    await running.client.get(CHAT)
    await running.client.get("/nowhere")
    await running.client.get("/health")
    await running.client.get("/v1/load_lora_adapter")

    async def count(handler: str, method: str, status: str) -> float:
        return await running.value(f'http_requests_total{{handler="{handler}",method="{method}",status="{status}"}}')

    assert await count(CHAT, "POST", "2xx") == 2
    assert await count(CHAT, "POST", "4xx") == 1
    assert await count(CHAT, "GET", "4xx") == 1
    assert await count("none", "GET", "4xx") == 1
    assert await count("/health", "GET", "2xx") == 0


async def test_metrics_are_prometheus_text(running: Running) -> None:
    """The content type of prometheus-client from 0.22 on, also with a slash behind the path."""
    for path in ("/metrics", "/metrics/"):
        response = await running.client.get(path)
        assert response.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
        assert "# TYPE vllm:num_requests_running gauge" in response.text


# --- injected failures ----------------------------------------------------------------------------

FAILURES = {
    "RateLimit": (
        429,
        {
            "message": "Rate limit reached for one in organization org-xxx on requests per min (RPM): Limit 3, Used 3, "
            "Requested 1.",
            "type": "RateLimitError",
            "param": None,
            "code": 429,
        },
    ),
    "InvalidAPIKey": (
        401,
        {"message": "Incorrect API key provided.", "type": "AuthenticationError", "param": None, "code": 401},
    ),
    "ServerError": (
        503,
        {
            "message": "The server is overloaded or not ready yet.",
            "type": "InternalServerError",
            "param": None,
            "code": 503,
        },
    ),
    "ModelNotFound": (
        404,
        {
            "message": "The model 'one-nonexistent' does not exist",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        },
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_an_injected_failure(start: Start, kind: str) -> None:
    """Its answer is llm-d-inference-sim's, a header names it, and a stream fails with a status as well."""
    running = await start(failures=[{"type": kind, "probability": "1"}])
    status, error = FAILURES[kind]
    for body in (chat(), chat(stream=True)):
        response = await running.post(CHAT, body)
        assert (response.status_code, response.json()) == (status, {"error": error})
        assert response.headers["x-ghostfleet-fault"] == kind
    assert (await running.client.get("/v1/models")).status_code == 200


async def test_failures_are_live(running: Running) -> None:
    """They begin and end with a patch, between two requests."""
    assert (await running.post(TEXT, {"prompt": "x"})).status_code == 200
    running.server.patch({"failures": [{"type": "ServerError", "probability": "100%"}]})
    assert (await running.post(TEXT, {"prompt": "x"})).status_code == 503
    running.server.patch({"failures": []})
    assert (await running.post(TEXT, {"prompt": "x"})).status_code == 200
