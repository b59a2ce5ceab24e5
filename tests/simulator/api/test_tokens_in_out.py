"""Prompts rendered in one place, tokens generated in another; and SageMaker's one route for both protocols."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.simulator.api.conftest import Running, Start

CHAT, COMPLETIONS, GENERATE = "/v1/chat/completions", "/v1/completions", "/inference/v1/generate"
HELLO = [{"role": "user", "content": "hello you"}]

REQUEST = {
    "token_offsets": None,
    "features": None,
    "content_parts": None,
    "reasoning_ended": None,
    "reasoning_parser_kwargs": None,
    "return_token_ids": None,
    "output_mode": "tokens",
    "parse_context": None,
    "stream": False,
    "stream_options": None,
    "cache_salt": None,
    "priority": 0,
    "kv_transfer_params": None,
    "ec_transfer_params": None,
}
PARAMS = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "stop": [],
    "stop_token_ids": [],
    "output_kind": 2,
    "skip_clone": True,
    "bad_words": [],
    "skip_reading_prefix_cache": False,
}
CHOICE = {"routed_experts": None, "sampling_mask": None, "weight_versions": None}


async def tokens(running: Running, **body: Any) -> list[int]:
    found: list[int] = (await running.post("/tokenize", body)).json()["tokens"]
    return found


# --- render ------------------------------------------------------------------------------------------


async def test_a_chat_is_rendered_as_a_request_for_tokens(running: Running) -> None:
    answer = await running.post(f"{CHAT}/render", {"messages": HELLO}, **{"x-request-id": "x"})
    ids = await tokens(running, messages=HELLO)
    assert answer.json() == REQUEST | {
        "request_id": "chatcmpl-x",
        "token_ids": ids,
        "model": None,
        "sampling_params": PARAMS | {"max_tokens": 512 - len(ids)},
        "parse_context": {
            "tools": None,
            "tool_choice": "none",
            "parallel_tool_calls": True,
            "include_reasoning": True,
            "chat_template_kwargs": {"add_generation_prompt": True, "continue_final_message": False},
            "history_tool_call_cnt": 0,
        },
    }


async def test_the_fields_of_a_rendered_request_stand_in_vllms_order(running: Running) -> None:
    answer = await running.post(f"{CHAT}/render", {"messages": HELLO, "n": 2, "seed": 3, "logit_bias": {"5": 200}})
    assert list(answer.json()) == [
        *("request_id", "token_ids", "token_offsets", "features", "content_parts", "sampling_params", "model"),
        *("reasoning_ended", "reasoning_parser_kwargs", "return_token_ids", "output_mode", "parse_context", "stream"),
        *("stream_options", "cache_salt", "priority", "kv_transfer_params", "ec_transfer_params"),
    ]
    assert list(answer.json()["sampling_params"]) == [
        *("n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "min_p", "seed"),
        *("stop", "stop_token_ids", "max_tokens", "output_kind", "skip_clone", "logit_bias", "bad_words"),
        "skip_reading_prefix_cache",
    ]


async def test_completions_are_rendered_as_a_list(running: Running) -> None:
    body = {"prompt": ["hello", "you there"], "model": "two", "stream": True, "stream_options": {"include_usage": True}}
    rendered = (await running.post(f"{COMPLETIONS}/render", body, **{"x-request-id": "x"})).json()
    more = {
        "model": "two",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": False},
        # 16 is the default of the sampling parameters, too, so it is not written.
        "sampling_params": PARAMS | {"output_kind": 1},
    }
    assert rendered == [
        REQUEST | more | {"request_id": f"cmpl-x-{index}", "token_ids": await tokens(running, prompt=prompt)}
        for index, prompt in enumerate(("hello", "you there"))
    ]


@pytest.mark.parametrize(
    ("asked", "rendered", "absent"),
    [
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0}, ["top_p", "min_p", "top_k"]),
        ({"temperature": 0.001}, {"temperature": 0.01}, []),
        ({"stop": ["ab", "abcd"]}, {"stop": ["ab", "abcd"], "output_text_buffer_length": 3}, []),
        ({"stop": "ab", "include_stop_str_in_output": True}, {"stop": ["ab"]}, ["output_text_buffer_length"]),
        ({"max_tokens": 5, "logprobs": 2}, {"max_tokens": 5, "logprobs": 2}, ["prompt_logprobs"]),
        ({"prompt_logprobs": 1}, {"prompt_logprobs": 1, "skip_reading_prefix_cache": True}, []),
        ({"seed": -1, "n": 1}, {}, ["seed", "n"]),
        ({"stop_token_ids": [3, 3, 4]}, {"stop_token_ids": [3, 4]}, []),
        ({"logit_bias": {"3": -150}}, {"logit_bias": {"3": -100.0}}, []),
        ({"vllm_xargs": {"a": 1}}, {"extra_args": {"a": 1}}, []),
    ],
)
async def test_sampling_parameters_are_those_of_the_request(
    running: Running, asked: dict[str, Any], rendered: dict[str, Any], absent: list[str]
) -> None:
    (request,) = (await running.post(f"{COMPLETIONS}/render", {"prompt": "x", **asked})).json()
    params = request["sampling_params"]
    assert {name: params.get(name) for name in rendered} == rendered
    assert not set(absent) & set(params)


async def test_a_shape_of_the_answer_is_rendered_as_a_constraint(running: Running) -> None:
    schema = {"type": "object"}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await running.post(f"{CHAT}/render", {"messages": HELLO, "response_format": wanted})
    outputs = answer.json()["sampling_params"]["structured_outputs"]
    assert outputs["json"] == schema
    assert outputs["_backend"] is None


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (CHAT, {"messages": HELLO, "model": "x"}, 404, "The model `x` does not exist. Valid aliases: one, two."),
        (
            CHAT,
            {"messages": HELLO, "use_beam_search": True},
            400,
            "Beam search is not supported by the render endpoint",
        ),
        (
            COMPLETIONS,
            {"prompt": "x", "use_beam_search": True},
            400,
            "Beam search is not supported by the render endpoint",
        ),
        (COMPLETIONS, {"prompt": "x", "temperature": 3}, 400, "temperature must be in [0, 2], got 3.0. "),
    ],
)
async def test_what_cannot_be_rendered_is_told(
    running: Running, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = await running.post(f"{path}/render", body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)


async def test_a_rendered_request_generates_what_the_chat_itself_does(running: Running) -> None:
    rendered = (await running.post(f"{CHAT}/render", {"messages": HELLO, "max_tokens": 8})).json()
    answer = await running.post(GENERATE, rendered)
    assert answer.json()["usage"]["prompt_tokens"] == len(rendered["token_ids"])
    assert len(answer.json()["choices"][0]["token_ids"]) == answer.json()["usage"]["completion_tokens"]


# --- generate ----------------------------------------------------------------------------------------


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


# --- SageMaker ---------------------------------------------------------------------------------------


async def test_one_route_serves_both_protocols(running: Running) -> None:
    chat = await running.post("/invocations", {"messages": HELLO})
    assert chat.json()["object"] == "chat.completion"
    completion = await running.post("/invocations", {"prompt": "hello", "stream": True})
    assert completion.headers["content-type"].startswith("text/event-stream")
    assert '"object":"text_completion"' in completion.text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "JSON decode error: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (
            '{"prompt": 5}',
            "Cannot find suitable handler for request. Expected one of: ['ChatCompletionRequest', 'CompletionRequest']",
        ),
        (
            '{"prompt": "x", "stream_options": {"include_usage": true}}',
            "Stream options can only be defined when `stream=True`.",
        ),
    ],
)
async def test_what_is_neither_is_told(running: Running, body: str, message: str) -> None:
    answer = await running.client.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


async def test_one_route_takes_only_json(running: Running) -> None:
    answer = await running.client.post("/invocations", content="{}", headers={"content-type": "text/plain"})
    assert answer.json()["error"]["message"].endswith("Unsupported Media Type: Only 'application/json' is allowed")
