"""Prompts that are rendered here for tokens to be generated elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from tests.simulator.api.conftest import Running

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


async def tokens(running: Running, **body: Any) -> list[int]:
    found: list[int] = (await running.post("/tokenize", body)).json()["tokens"]
    return found


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
