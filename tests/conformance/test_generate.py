"""Section 1 of vLLM's contract: POST /inference/v1/generate, tokens in and tokens out."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from .conftest import Vllm, chunks_of, refused

GENERATE = "/inference/v1/generate"


def generate(vllm: Vllm, token_ids: Any = (65, 66, 67), sampling: Any = None, **fields: Any) -> httpx.Response:
    params = {"max_tokens": 2, **(sampling or {})}
    return vllm.post(GENERATE, {"token_ids": list(token_ids), "sampling_params": params, **fields})


def test_generate_keys(plain: Vllm) -> None:
    """1d: the answer of /inference/v1/generate has request_id, model, usage, choices and the rest, nulls included."""
    body = generate(plain).json()
    assert set(body) == {
        *("request_id", "model", "created", "usage", "choices", "prompt_logprobs", "prompt_token_id_logprobs"),
        *("prompt_token_ids", "mm_placeholders", "metrics", "kv_transfer_params", "ec_transfer_params", "output_mode"),
    }
    assert (body["model"], body["output_mode"], body["kv_transfer_params"]) == ("m", "tokens", None)
    [choice] = body["choices"]
    assert (choice["index"], choice["finish_reason"], choice["stop_reason"]) == (0, "length", None)
    assert len(choice["token_ids"]) == 2
    assert "text" not in choice


def test_generate_usage(plain: Vllm) -> None:
    """1d: its usage counts the tokens that came in and those that go out."""
    usage = generate(plain, range(40), {"max_tokens": 7, "ignore_eos": True}).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (40, 7, 47)


def test_generate_request_id(plain: Vllm) -> None:
    """1b: its id is generate-tokens- and X-Request-Id, without that the body's request_id, else a random one."""
    body = {"token_ids": [65], "sampling_params": {"max_tokens": 1}, "request_id": "body"}
    assert plain.post(GENERATE, body, X_Request_Id="header").json()["request_id"] == "generate-tokens-header"
    assert plain.post(GENERATE, body).json()["request_id"] == "generate-tokens-body"
    names = {generate(plain).json()["request_id"] for _ in range(2)}
    assert len(names) == 2


def test_generate_default_limit(plain: Vllm) -> None:
    """1b: without max_tokens it may use the rest of the context, not 16 tokens."""
    body = {"token_ids": list(range(100, 500)), "sampling_params": {"ignore_eos": True}}
    assert plain.post(GENERATE, body).json()["usage"]["completion_tokens"] == 512 - 400


def test_generate_limit_beyond_the_context(plain: Vllm) -> None:
    """1e: max_tokens beyond the context ends there with `length`, whatever min_tokens says."""
    body = generate(plain, range(100, 600), {"max_tokens": 9_000, "min_tokens": 700, "ignore_eos": True}).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["total_tokens"] == 512


def test_generate_stop_token(plain: Vllm) -> None:
    """5: a stop token ends it, and stop_reason is its id."""
    [choice] = generate(plain, sampling={"max_tokens": 9, "stop_token_ids": [66]}).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"], choice["token_ids"]) == ("stop", 66, [65, 66])


def test_generate_several(plain: Vllm) -> None:
    """1d: with n there are so many choices, numbered."""
    choices = generate(plain, sampling={"n": 3}).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]


def test_generate_stream(plain: Vllm) -> None:
    """1d: its stream has a chunk per token, the last with finish_reason; `usage` only where it is asked for."""
    chunks = chunks_of(generate(plain, stream=True))
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[65], [66]]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "length"]
    assert all(chunk.get("usage") is None for chunk in chunks)


def test_generate_stream_usage(plain: Vllm) -> None:
    """1d: with include_usage its last chunk has the usage and no choice."""
    *_, last = chunks_of(generate(plain, stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (3, 2)


def test_generate_prompt_token_ids(plain: Vllm) -> None:
    """1b: return_token_ids gives the prompt back, in a stream in the first chunk only."""
    assert generate(plain, return_token_ids=True).json()["prompt_token_ids"] == [65, 66, 67]
    first, second = chunks_of(generate(plain, stream=True, return_token_ids=True))
    assert first["prompt_token_ids"] == [65, 66, 67]
    assert second.get("prompt_token_ids") is None


@pytest.mark.parametrize("mode", ["text", "derender"])
def test_generate_text(plain: Vllm, mode: str) -> None:
    """1b: output_mode asks for the text, or for the message of a chat, beside the tokens."""
    ids = plain.post("/tokenize", {"prompt": "one two three", "add_special_tokens": False}).json()["tokens"]
    body = generate(plain, ids, {"max_tokens": len(ids)}, output_mode=mode).json()
    [choice] = body["choices"]
    assert body["output_mode"] == mode
    assert choice["token_ids"] == ids
    assert (choice["text"] if mode == "text" else choice["message"]["content"]) == "one two three"


def test_generate_logprobs(plain: Vllm) -> None:
    """1b: its logprobs are keyed by token id, with ranks."""
    [choice] = generate(plain, sampling={"logprobs": 2, "temperature": 0}).json()["choices"]
    entries = choice["logprobs"]["content"]
    assert [entry["token_id"] for entry in entries] == choice["token_ids"]
    assert all([top["rank"] for top in entry["top_logprobs"]] == [1, 2] for entry in entries)


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"sampling_params": {}}, "body.token_ids"),
        ({"token_ids": [], "sampling_params": {}}, "body.token_ids"),
        ({"token_ids": [-1], "sampling_params": {}}, "body.token_ids"),
        ({"token_ids": ["a"], "sampling_params": {}}, "body.token_ids.0"),
        ({"token_ids": [1]}, "body.sampling_params"),
        ({"token_ids": [1], "sampling_params": {}, "cache_salt": ""}, "body.cache_salt"),
        ({"token_ids": [1], "sampling_params": {}, "priority": 2**63}, "body.priority"),
        ({"token_ids": [1], "sampling_params": {}, "output_mode": "x"}, "body.output_mode"),
        ({"token_ids": [1], "sampling_params": {}, "features": {"mm_hashes": {}}}, "body.features.mm_placeholders"),
    ],
)
def test_generate_validation(plain: Vllm, body: Any, loc: str) -> None:
    """1c: each of its fields is checked; `param` says which one is wrong."""
    status, type_, message, param = refused(plain.post(GENERATE, body))
    assert (status, type_, param) == (400, "Bad Request", loc)
    assert message.startswith("1 validation error:\n  {'type': ")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"model": "x"}, (404, "NotFoundError", "The model `x` does not exist. Valid aliases: m.", "model")),
        (
            {"sampling_params": {"temperature": 3}},
            (400, "BadRequestError", "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)"),
        ),
        (
            {"sampling_params": {"n": 300}},
            (400, "BadRequestError", "sampling_params.n must be at most the server's max_num_seqs (256), got 300."),
        ),
        (
            {"stream": True, "output_mode": "derender"},
            (400, "BadRequestError", "output_mode='derender' does not support stream=true."),
        ),
        (
            {"sampling_params": {"stop": ["a"], "detokenize": False}},
            (400, "BadRequestError", "stop strings are only supported when detokenize is True. Set detokenize=True"),
        ),
    ],
)
def test_generate_refusals(plain: Vllm, more: Any, expected: tuple[Any, ...]) -> None:
    """1c: an unknown model, values out of range, wishes that contradict each other."""
    told = refused(plain.post(GENERATE, {"token_ids": [1], "sampling_params": {}, **more}))
    assert told[:2] == expected[:2]
    assert told[2].startswith(expected[2])
    assert len(expected) == 3 or told[3] == expected[3]


def test_generate_too_long(plain: Vllm) -> None:
    """1c: too many tokens are 400; a stream has begun by then, and so gets it as a frame."""
    status, type_, message, _ = refused(generate(plain, [1] * 600))
    assert (status, type_) == (400, "BadRequestError")
    assert "(length 600) is longer than the maximum model length of 512" in message
    [frame] = chunks_of(generate(plain, [1] * 600, stream=True))
    assert frame["error"]["code"] == 400


def test_generate_media_type(plain: Vllm) -> None:
    """1b: only application/json is taken by /inference/v1/generate."""
    response = plain.client.post(GENERATE, content="{}", headers={"content-type": "text/plain"})
    assert refused(response)[2].endswith("Unsupported Media Type: Only 'application/json' is allowed")


def test_generate_wants_the_key(guarded: Vllm) -> None:
    """1: /inference is guarded by the API key."""
    assert generate(guarded).status_code == 401
    body = {"token_ids": [65], "sampling_params": {"max_tokens": 1}}
    assert guarded.post(GENERATE, body, Authorization="Bearer secret").status_code == 200


def test_generate_is_counted(plain: Vllm) -> None:
    """2: its requests count as those of any other route."""
    before = plain.metrics()
    generate(plain, range(30), {"max_tokens": 4, "ignore_eos": True})
    after = plain.metrics()

    def moved(name: str, label: str = "") -> float:
        return sum(after[key] - before.get(key, 0) for key in after if key.split("{")[0] == name and label in key)

    assert moved("vllm:prompt_tokens_total") == 30
    assert moved("vllm:generation_tokens_total") == 4
    assert moved("vllm:request_success_total", 'finished_reason="length"') == 1
    assert moved("http_requests_total", f'handler="{GENERATE}"') == 1


def test_generate_shares_the_prefix_cache(full: Vllm) -> None:
    """4: tokens that a chat has left in the prefix cache are found by /inference/v1/generate, but not under a salt."""
    text = "a prompt that is long enough for a few blocks of sixteen tokens each " * 4
    full.chat(text, max_tokens=1)
    messages = [{"role": "user", "content": text}]
    ids = full.post("/tokenize", {"messages": messages}).json()["tokens"]
    before = full.value("vllm:prefix_cache_hits_total")
    generate(full, ids, {"max_tokens": 1})
    hits = full.value("vllm:prefix_cache_hits_total")
    assert hits - before == (len(ids) - 1) // 16 * 16
    generate(full, ids, {"max_tokens": 1}, cache_salt="another")
    assert full.value("vllm:prefix_cache_hits_total") == hits


def test_generate_abort(narrow: Vllm) -> None:
    """1a: POST /inference/v1/abort_requests ends requests by their ids: 200, empty; their finish reason is `abort`."""
    body = {"token_ids": [65, 66], "request_id": "long", "sampling_params": {"max_tokens": 1_500, "ignore_eos": True}}
    with narrow.client.stream("POST", GENERATE, json={**body, "stream": True}) as stream:
        lines = stream.iter_lines()
        next(lines)
        answer = narrow.post("/inference/v1/abort_requests", {"request_ids": ["generate-tokens-long"]})
        assert (answer.status_code, answer.content) == (200, b"")
        rest = [line for line in lines if line]
    assert '"finish_reason":"abort"' in rest[-2]
    assert rest[-1] == "data: [DONE]"
