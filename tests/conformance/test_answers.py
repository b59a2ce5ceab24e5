"""Sections 1b, 1d and 1e of vLLM's contract: requests, answers in one piece, and streams."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .conftest import CHAT, COMPLETIONS, Vllm

CHAT_KEYS = [
    "id",
    "object",
    "created",
    "model",
    "choices",
    "service_tier",
    "system_fingerprint",
    "usage",
    "prompt_logprobs",
    "prompt_token_ids",
    "prompt_text",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
]
CHOICE_KEYS = [
    "index",
    "message",
    "logprobs",
    "finish_reason",
    "stop_reason",
    "token_ids",
    "routed_experts",
    "weight_versions",
]
MESSAGE_KEYS = ["role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"]
COMPLETION_KEYS = [
    "id",
    "object",
    "created",
    "model",
    "choices",
    "service_tier",
    "system_fingerprint",
    "usage",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
]
TEXT_CHOICE_KEYS = [
    "index",
    "text",
    "logprobs",
    "finish_reason",
    "stop_reason",
    "token_ids",
    "prompt_logprobs",
    "prompt_token_ids",
    "routed_experts",
    "weight_versions",
]
USAGE_KEYS = [
    "prompt_tokens",
    "total_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
]
USAGE = {"include_usage": True}


def test_chat_keys(plain: Vllm) -> None:
    """1d: a chat in one piece has these keys, nulls included; `tool_calls` is absent when there are none."""
    body = plain.chat().json()
    [choice] = body["choices"]
    assert set(body) == set(CHAT_KEYS)
    assert set(choice) == set(CHOICE_KEYS)
    assert set(choice["message"]) == set(MESSAGE_KEYS)
    assert set(body["usage"]) == set(USAGE_KEYS)
    nulls = {key for key, value in {**body, **choice, **choice["message"], **body["usage"]}.items() if value is None}
    assert nulls == (set(CHAT_KEYS) | set(CHOICE_KEYS) | set(MESSAGE_KEYS) | set(USAGE_KEYS)) - {
        *("id", "object", "created", "model", "choices", "system_fingerprint", "usage", "index", "message"),
        *("finish_reason", "role", "content", "prompt_tokens", "total_tokens", "completion_tokens"),
    }
    assert (body["object"], body["model"]) == ("chat.completion", "m")
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{16,32}", body["id"])


def test_completion_keys(plain: Vllm) -> None:
    """1d: a completion in one piece has these keys, nulls included."""
    body = plain.completion().json()
    [choice] = body["choices"]
    assert set(body) == set(COMPLETION_KEYS)
    assert set(choice) == set(TEXT_CHOICE_KEYS)
    assert (body["object"], choice["index"]) == ("text_completion", 0)
    assert re.fullmatch(r"cmpl-[0-9a-f]{16,32}", body["id"])


def test_fingerprint(plain: Vllm) -> None:
    """8: system_fingerprint is vllm-<version>-<8 hex digits>."""
    assert re.fullmatch(r"vllm-0\.33\.0-[0-9a-f]{8}", plain.chat().json()["system_fingerprint"])


def test_default_model(plain: Vllm) -> None:
    """1b: no model, null and "" mean the base model; the answer has its first served name."""
    for fields in ({}, {"model": None}, {"model": ""}, {"model": "m"}):
        assert plain.chat(max_tokens=1, **fields).json()["model"] == "m"


def test_default_limits(plain: Vllm) -> None:
    """1b: a completion without max_tokens, or with null, gets 16 tokens; a chat the rest of the context."""
    for fields in ({}, {"max_tokens": None}):
        assert plain.completion([7, 8], ignore_eos=True, **fields).json()["usage"]["completion_tokens"] == 16
    assert plain.chat(ignore_eos=True).json()["usage"]["total_tokens"] == 512


def test_max_completion_tokens_wins(plain: Vllm) -> None:
    """1b: of max_tokens and max_completion_tokens the latter counts."""
    body = plain.chat(max_tokens=9, max_completion_tokens=4, ignore_eos=True).json()
    assert body["usage"]["completion_tokens"] == 4


def test_content_parts(plain: Vllm) -> None:
    """8: a content that is a list of text parts is rendered (`vllm bench serve` sends it)."""
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    body = plain.post(CHAT, {"messages": [{"role": "user", "content": parts}]}).json()
    assert "Hello" in body["choices"][0]["message"]["content"]


@pytest.mark.parametrize("prompt", ["one two", ["one two"], [7, 8, 9], [[7, 8, 9]]])
def test_forms_of_prompts(plain: Vllm, prompt: Any) -> None:
    """1b: a prompt is a text, texts, tokens or lists of tokens."""
    body = plain.completion(prompt, max_tokens=2).json()
    assert len(body["choices"]) == 1
    if isinstance(prompt, list) and not isinstance(prompt[0], str):
        assert body["usage"]["prompt_tokens"] == 3


def test_index_of_choices(plain: Vllm) -> None:
    """1d: choices of several prompts are numbered through: index = output + prompt * n."""
    body = plain.completion(["a", "b"], n=2, max_tokens=4).json()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]
    assert body["usage"]["prompt_tokens"] == sum(
        plain.completion(prompt).json()["usage"]["prompt_tokens"] for prompt in ("a", "b")
    )


@pytest.mark.parametrize(("path", "prefix"), [(CHAT, "chatcmpl-"), (COMPLETIONS, "cmpl-")])
def test_request_id(plain: Vllm, path: str, prefix: str) -> None:
    """1b: X-Request-Id is the id's suffix; without it the body's request_id."""
    body = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {"prompt": "x"}
    wanted = {**body, "request_id": "body"}
    assert plain.post(path, wanted, X_Request_Id="header").json()["id"].startswith(prefix + "header")
    assert plain.post(path, wanted).json()["id"].startswith(prefix + "body")


def test_eos_counts(plain: Vllm) -> None:
    """1d: the end-of-sequence token is counted and has no text."""
    body = plain.chat("Hello").json()
    tokens = plain.post("/tokenize", {"prompt": "Hello", "add_special_tokens": False}).json()["count"]
    assert body["usage"]["completion_tokens"] == tokens + 1
    assert (body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]) == ("Hello", "stop")


def test_stop_string(plain: Vllm) -> None:
    """8: a stop string ends the answer before it; stop_reason names it; it is shown on request."""
    choice = plain.chat("one two three four", stop=["three"]).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == (
        "one two ",
        "stop",
        "three",
    )
    choice = plain.chat("one two three four", stop="three", include_stop_str_in_output=True).json()["choices"][0]
    assert choice["message"]["content"] == "one two three"


def test_stop_token(plain: Vllm) -> None:
    """5: a stop token ends the answer; stop_reason is its id."""
    tokens = plain.post("/tokenize", {"prompt": "one two three", "add_special_tokens": False}).json()["tokens"]
    choice = plain.completion("one two three", max_tokens=50, stop_token_ids=[tokens[1]]).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", tokens[1])


def test_min_tokens(plain: Vllm) -> None:
    """5: no end of sequence comes before min_tokens."""
    assert plain.chat("Hi", min_tokens=20, max_tokens=40).json()["usage"]["completion_tokens"] >= 20


def test_stream_of_a_chat(plain: Vllm) -> None:
    """1d: role chunk, token chunks, finish chunk with the fingerprint; no `usage` key unless asked for."""
    chunks = plain.chat_chunks("one two three")
    role, first, last = chunks[0], chunks[1], chunks[-1]
    assert set(role) == {"id", "object", "created", "model", "choices", "prompt_token_ids", "prompt_text"}
    assert role["object"] == "chat.completion.chunk"
    assert role["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert set(first) == {"id", "object", "created", "model", "choices", "kv_transfer_params"}
    [token] = first["choices"]
    assert set(token) == {"index", "delta", "logprobs", "finish_reason", "token_ids"}
    assert set(token["delta"]) == {"content"}
    [end] = last["choices"]
    assert set(end) == {"index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids", "weight_versions"}
    assert (end["finish_reason"], end["delta"]["content"]) == ("stop", "")
    assert last["system_fingerprint"].startswith("vllm-")
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "one two three"


def test_stream_headers(plain: Vllm) -> None:
    """1d: a stream is text/event-stream; charset=utf-8."""
    response = plain.chat(stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


def test_usage_chunk(plain: Vllm) -> None:
    """1d: with include_usage a last chunk without choices has the usage, without null keys, and the fingerprint."""
    *chunks, usage = plain.chat_chunks("one two", stream_options=USAGE)
    assert usage["choices"] == []
    assert set(usage["usage"]) == {"prompt_tokens", "total_tokens", "completion_tokens"}
    assert usage["system_fingerprint"].startswith("vllm-")
    assert "system_fingerprint" not in chunks[-1]
    assert not any("usage" in chunk for chunk in chunks)


def test_continuous_usage(plain: Vllm) -> None:
    """1d: with continuous_usage_stats every chunk has the usage, the role chunk with 0 tokens."""
    chunks = plain.chat_chunks("one two three", stream_options={**USAGE, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] > 1


def test_continuous_usage_alone(plain: Vllm) -> None:
    """1d: continuous_usage_stats without include_usage changes nothing."""
    chunks = plain.chat_chunks(stream_options={"continuous_usage_stats": True})
    assert not any("usage" in chunk for chunk in chunks)


def test_forced_usage(full: Vllm) -> None:
    """1d: --enable-force-include-usage forces both."""
    chunks = full.chat_chunks()
    assert all("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"] == []


def test_stream_of_a_completion(plain: Vllm) -> None:
    """1d: a completion's stream has no role chunk; its chunks have these keys."""
    chunks = plain.completion_chunks("one two three", max_tokens=50, stream_options=USAGE)
    *parts, usage = chunks
    for part in parts:
        assert part["object"] == "text_completion"
        [choice] = part["choices"]
        assert set(choice) == {
            "index",
            "text",
            "logprobs",
            "finish_reason",
            "stop_reason",
            "prompt_token_ids",
            "token_ids",
            "weight_versions",
        }
    assert "".join(part["choices"][0]["text"] for part in parts) == "one two three"
    assert (usage["object"], usage["choices"]) == ("text_completion", [])


def test_one_chunk_per_token(plain: Vllm) -> None:
    """1d: at most one chunk per token, and every chunk of a stream has the same id, moment and model."""
    chunks = plain.completion_chunks([7, 8, 9], max_tokens=20, ignore_eos=True, stream_options=USAGE)
    assert len(chunks) - 1 <= 20
    assert chunks[-1]["usage"]["completion_tokens"] == 20
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


def test_error_amid_a_stream(plain: Vllm) -> None:
    """1c: what the engine refuses after the stream began is a frame with the error, then [DONE]."""
    [frame] = plain.completion_chunks([10**9])
    assert (frame["error"]["type"], frame["error"]["code"]) == ("BadRequestError", 400)
    assert plain.completion([10**9]).status_code == 400


def test_cached_tokens(plain: Vllm, full: Vllm) -> None:
    """1d, 4: prompt_tokens_details needs its flag; 33 tokens that were there before hit 32, 32 tokens hit 16."""
    for length, cached in ((33, 32), (32, 16)):
        prompt = [length + 10 * number for number in range(length)]
        assert plain.completion(prompt).json()["usage"]["prompt_tokens_details"] is None
        first = full.completion(prompt).json()["usage"]["prompt_tokens_details"]
        assert first["cached_tokens"] == 0
        assert set(first) == {"cached_tokens", "created_cache_tokens", "multimodal_tokens"}
        assert full.completion(prompt).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == cached


def test_cache_salt(full: Vllm) -> None:
    """4: a salt keeps cached blocks apart."""
    prompt = list(range(500, 548))

    def cached(**fields: Any) -> int:
        details: dict[str, int] = full.completion(prompt, **fields).json()["usage"]["prompt_tokens_details"]
        return details["cached_tokens"]

    assert [cached(), cached(), cached(cache_salt="a"), cached(cache_salt="b"), cached(cache_salt="a")] == [
        0,
        32,
        0,
        0,
        32,
    ]


def test_request_metrics(plain: Vllm, full: Vllm) -> None:
    """1d: `metrics` is null without --enable-per-request-metrics, and has these keys with it."""
    assert plain.chat().json()["metrics"] is None
    assert set(full.chat().json()["metrics"]) == {
        *("time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second"),
        "speculative_decoding",
    }


def test_logprobs_of_a_chat(plain: Vllm) -> None:
    """1b: logprobs with top_logprobs in a chat: one entry per token with its alternatives."""
    content = plain.chat("Hello", logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert len(content) >= 1
    for entry in content:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) in {2, 3}


def test_logprobs_of_a_completion(plain: Vllm) -> None:
    """1b: logprobs in a completion: four lists of the same length."""
    logprobs = plain.completion("Hello there", logprobs=1).json()["choices"][0]["logprobs"]
    assert set(logprobs) == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
    assert len({len(values) for values in logprobs.values()}) == 1


def test_return_token_ids(plain: Vllm) -> None:
    """1b: return_token_ids gives the tokens of prompt and answer."""
    body = plain.completion([7, 8, 9], max_tokens=4, ignore_eos=True, return_token_ids=True).json()
    [choice] = body["choices"]
    assert choice["prompt_token_ids"] == [7, 8, 9]
    assert len(choice["token_ids"]) == 4


def test_echo(plain: Vllm) -> None:
    """1b: echo puts the prompt before the text."""
    text: str = plain.completion("one two", echo=True, max_tokens=2, ignore_eos=True).json()["choices"][0]["text"]
    assert text.startswith("one two")


def test_stream_interval(plain: Vllm) -> None:
    """1b: stream_interval gathers tokens in fewer chunks; the first comes alone."""
    chunks = plain.completion_chunks([7, 8], max_tokens=21, ignore_eos=True, stream_interval=10, stream_options=USAGE)
    assert len(chunks) - 1 <= 5
    assert chunks[-1]["usage"]["completion_tokens"] == 21


@pytest.mark.parametrize(("wanted", "start"), [("TEXT", "TEXT "), ("JSON", "JSON {")])
def test_orca(plain: Vllm, wanted: str, start: str) -> None:
    """8: endpoint-load-metrics-format asks for the load in a header, without streaming only."""
    body = {"messages": [{"role": "user", "content": "x"}]}
    header = plain.post(CHAT, body, endpoint_load_metrics_format=wanted).headers["endpoint-load-metrics"]
    assert header.startswith(start)
    assert "kv_cache_usage_perc" in header
    assert "num_requests_waiting" in header
    streamed = plain.post(CHAT, {**body, "stream": True}, endpoint_load_metrics_format=wanted)
    assert "endpoint-load-metrics" not in streamed.headers


def test_same_seed(plain: Vllm) -> None:
    """1b: a seed repeats an answer."""
    texts = {
        plain.chat("x", seed=5, max_tokens=30, ignore_eos=True).json()["choices"][0]["message"]["content"] for _ in "ab"
    }
    assert len(texts) == 1
