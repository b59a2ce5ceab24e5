"""Tokens in, tokens out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.simulator.api.conftest import Running, Start

GENERATE = "/inference/v1/generate"

CHOICE = {"routed_experts": None, "sampling_mask": None, "weight_versions": None}


async def tokens(running: Running, **body: Any) -> list[int]:
    found: list[int] = (await running.post("/tokenize", body)).json()["tokens"]
    return found


async def test_tokens_in_tokens_out(running: Running) -> None:
    body = {"token_ids": [65, 66, 67], "sampling_params": {"max_tokens": 2}, "request_id": "x"}
    answer = (await running.post(GENERATE, body)).json()
    assert isinstance(answer.pop("created"), int)
    assert answer == {
        "request_id": "generate-tokens-x",
        "model": "one",
        "usage": {
            "prompt_tokens": 3,
            "total_tokens": 5,
            "completion_tokens": 2,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
        "prompt_logprobs": None,
        "prompt_token_id_logprobs": None,
        "prompt_token_ids": None,
        "mm_placeholders": None,
        "metrics": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "output_mode": "tokens",
        "choices": [
            CHOICE
            | {"index": 0, "finish_reason": "length", "stop_reason": None, "token_ids": [65, 66], "logprobs": None}
        ],
    }


async def chunks(running: Running, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await running.post(GENERATE, {**body, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *frames, done = answer.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


async def test_a_stream_of_tokens(running: Running) -> None:
    body = {
        "token_ids": [65, 66, 67],
        "request_id": "x",
        "sampling_params": {"max_tokens": 2},
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
    }
    usage = {"prompt_tokens": 3, "prompt_tokens_details": None, "completion_tokens_details": None}
    choice = CHOICE | {"index": 0, "stop_reason": None, "logprobs": None}
    assert await chunks(running, body) == [
        {
            "request_id": "generate-tokens-x",
            "usage": usage | {"total_tokens": 4, "completion_tokens": 1},
            "prompt_token_ids": [65, 66, 67],
            "output_mode": "tokens",
            "choices": [choice | {"finish_reason": None, "token_ids": [65]}],
        },
        {
            "request_id": "generate-tokens-x",
            "usage": usage | {"total_tokens": 5, "completion_tokens": 2},
            "output_mode": "tokens",
            "choices": [choice | {"finish_reason": "length", "token_ids": [66]}],
        },
        {
            "request_id": "generate-tokens-x",
            "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2},
            "output_mode": "tokens",
            "choices": [],
        },
    ]


async def test_text_comes_with_the_tokens_where_it_is_asked_for(running: Running) -> None:
    ids = await tokens(running, prompt="one two three")
    whole = (await running.post(GENERATE, {"token_ids": ids, "sampling_params": {}, "output_mode": "text"})).json()
    assert whole["choices"][0]["text"] == "one two three"
    parts = await chunks(running, {"token_ids": ids, "sampling_params": {}, "output_mode": "text"})
    assert "".join(part["choices"][0]["text"] for part in parts) == "one two three"
    body = {"token_ids": ids, "sampling_params": {}, "output_mode": "derender"}
    message = (await running.post(GENERATE, body)).json()["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", "one two three")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_text_and_keeps_the_tokens(running: Running, stream: bool) -> None:
    ids = await tokens(running, prompt="one two three four")
    body = {"token_ids": ids, "sampling_params": {"stop": ["two"]}, "output_mode": "text"}
    if stream:
        choices = [part["choices"][0] for part in await chunks(running, body)]
    else:
        choices = (await running.post(GENERATE, body)).json()["choices"]
    assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == ("stop", "two")
    assert "".join(choice["text"] for choice in choices).strip() == "one"
    produced = [token for choice in choices for token in choice["token_ids"]]
    assert produced == ids[: len(produced)]


async def test_without_a_limit_the_rest_of_the_context_is_free(running: Running) -> None:
    body = {"token_ids": list(range(100, 400)), "sampling_params": {"ignore_eos": True}}
    answer = (await running.post(GENERATE, body)).json()
    assert answer["usage"]["completion_tokens"] == 212


async def test_logprobs_tell_token_ids_and_ranks(running: Running) -> None:
    body = {"token_ids": [65, 66, 67], "sampling_params": {"max_tokens": 2, "logprobs": 3, "temperature": 0}}
    content = (await running.post(GENERATE, body)).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token_id"] for entry in content] == [65, 66]
    for entry in content:
        assert [top["rank"] for top in entry["top_logprobs"]] == [1, 2, 3]
        assert entry["top_logprobs"][0] == {name: entry[name] for name in ("token_id", "logprob", "rank")}


@pytest.mark.parametrize(
    ("body", "status", "error_type", "message"),
    [
        (
            {"sampling_params": {}},
            400,
            "Bad Request",
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.token_ids'",
        ),
        ({"token_ids": [], "sampling_params": {}}, 400, "Bad Request", "1 validation error:\n  {'type': 'too_short'"),
        (
            {"token_ids": [-1], "sampling_params": {}},
            400,
            "Bad Request",
            "1 validation error:\n  {'type': 'value_error'",
        ),
        (
            {"token_ids": [1]},
            400,
            "Bad Request",
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.sampling_params'",
        ),
        (
            {"token_ids": [1], "sampling_params": {"max_tokens": "x"}},
            400,
            "Bad Request",
            "2 validation errors:\n  {'type': 'is_instance_of', 'loc': 'body.sampling_params'",
        ),
        (
            {"token_ids": [1], "sampling_params": {"max_tokens": 0}},
            400,
            "BadRequestError",
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
        ),
        (
            {"token_ids": [1], "sampling_params": {}, "model": "x"},
            404,
            "NotFoundError",
            "The model `x` does not exist.",
        ),
        (
            {"token_ids": [1], "sampling_params": {"n": 300}},
            400,
            "BadRequestError",
            "sampling_params.n must be at most the server's max_num_seqs (256), got 300.",
        ),
        (
            {"token_ids": [1], "sampling_params": {}, "stream": True, "output_mode": "derender"},
            400,
            "BadRequestError",
            "output_mode='derender' does not support stream=true.",
        ),
        (
            {"token_ids": [1] * 513, "sampling_params": {}},
            400,
            "BadRequestError",
            "The decoder prompt (length 513) is longer than the maximum model length of 512.",
        ),
        ({"token_ids": [99999], "sampling_params": {}}, 400, "BadRequestError", "Token id 99999 is out of vocabulary"),
    ],
)
async def test_what_cannot_be_generated_is_told(
    running: Running, body: dict[str, Any], status: int, error_type: str, message: str
) -> None:
    answer = await running.post(GENERATE, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, error_type)
    assert error["message"].startswith(message)


async def test_what_the_engine_refuses_is_a_frame_in_a_stream(running: Running) -> None:
    (only,) = await chunks(running, {"token_ids": [1] * 513, "sampling_params": {}})
    assert only["error"]["code"] == 400


async def test_token_requests_are_aborted_by_id(start: Start) -> None:
    running = await start(profile={"simple": {"timeToFirstToken": 5, "interTokenLatency": 20}})
    body = {"token_ids": [65, 66], "request_id": "x", "sampling_params": {"max_tokens": 400, "ignore_eos": True}}
    async with running.client.stream("POST", GENERATE, json={**body, "stream": True}) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        answer = await running.post("/inference/v1/abort_requests", {"request_ids": ["generate-tokens-x"]})
        assert (answer.status_code, answer.content) == (200, b"")
        rest = [line async for line in lines if line.startswith("data: {")]
    assert json.loads(rest[-1].removeprefix("data: "))["choices"][0]["finish_reason"] == "abort"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{}", 400, "Missing 'request_ids' in request body"),
        ("x", 400, "JSON decode error: Expecting value: line 1 column 1 (char 0)"),
        ("[]", 500, "'list' object has no attribute 'get'"),
    ],
)
async def test_a_bad_wish_to_abort_is_told(running: Running, body: str, status: int, message: str) -> None:
    answer = await running.client.post("/inference/v1/abort_requests", content=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)


TEXT_ONLY = "one is not a multimodal model"
IMAGE = {"mm_hashes": {"image": ["abc"]}, "mm_placeholders": {"image": [{"offset": 0, "length": 1}]}}


@pytest.mark.parametrize(
    ("more", "error_type", "message"),
    [
        ({"features": IMAGE}, "BadRequestError", TEXT_ONLY),
        ({"content_parts": [{"type": "image_url", "url": "x"}]}, "BadRequestError", TEXT_ONLY),
        (
            {"features": {}},
            "Bad Request",
            "2 validation errors:\n  {'type': 'missing', 'loc': 'body.features.mm_hashes'",
        ),
        (
            {"features": {**IMAGE, "mm_placeholders": {"image": [{"offset": -1, "length": 1}]}}},
            "Bad Request",
            "1 validation error:\n  {'type': 'greater_than_equal'",
        ),
        ({"features": IMAGE, "content_parts": [{}]}, "Bad Request", "1 validation error:\n  {'type': 'value_error'"),
    ],
)
async def test_features_of_a_text_model(running: Running, more: dict[str, Any], error_type: str, message: str) -> None:
    """They are checked, and there must be nothing in them."""
    answer = await running.post(GENERATE, {"token_ids": [1], "sampling_params": {}, **more})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, error_type)
    assert error["message"].startswith(message)


async def test_features_without_an_item_are_none(running: Running) -> None:
    empty: dict[str, Any] = {"mm_hashes": {"image": []}, "mm_placeholders": {}}
    body = {"token_ids": [65], "sampling_params": {"max_tokens": 1}, "features": empty}
    assert (await running.post(GENERATE, body)).json()["choices"][0]["token_ids"] == [65]


@pytest.mark.parametrize("params", [{"max_tokens": 5000, "min_tokens": 3000}, {"min_tokens": 3000}])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_of_the_context_goes_before_min_tokens(
    running: Running, params: dict[str, Any], stream: bool
) -> None:
    body = {"token_ids": [65] * 500, "sampling_params": params, "stream": stream}
    if "max_tokens" not in params:
        body["sampling_params"] = {**params, "max_tokens": 3000}
    answer = await running.post(GENERATE, body)
    assert answer.status_code == 200
    assert answer.text.count('"length"') == 1
    if not stream:
        assert answer.json()["usage"]["completion_tokens"] == 12
