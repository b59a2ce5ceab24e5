"""Section 1c of vLLM's contract: refusals, word for word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import CHAT, COMPLETIONS, Vllm, refused

USER = [{"role": "user", "content": "Hello"}]
TOO_LONG = (
    "This model's maximum context length is 512 tokens. However, your prompt contains {count} input tokens, which "
    "exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value={value})"
)


def test_unknown_model(plain: Vllm) -> None:
    """1c: a model that is not served is 404 with the aliases there are."""
    for path, body in ((CHAT, {"messages": USER}), (COMPLETIONS, {"prompt": "x"}), ("/tokenize", {"prompt": "x"})):
        assert refused(plain.post(path, {"model": "X", **body})) == (
            404,
            "NotFoundError",
            "The model `X` does not exist. Valid aliases: m.",
            "model",
        )


def test_prompt_too_long(plain: Vllm) -> None:
    """1c: a prompt of more tokens than the context."""
    expected = TOO_LONG.format(count=600, value=600)
    assert refused(plain.completion([7] * 600)) == (400, "BadRequestError", expected, "input_tokens")


def test_prompt_too_long_in_characters(plain: Vllm) -> None:
    """1c: a text that cannot fit by its characters alone is refused before it is tokenized."""
    status, kind, message, param = refused(plain.completion("x" * 1_000_000))
    assert (status, kind, param) == (400, "BadRequestError", "input_text")
    assert "your prompt contains 1000000 characters (more than " in message
    assert "which is the upper bound for 512 input tokens)" in message


@pytest.mark.parametrize(
    ("path", "field"), [(CHAT, "max_tokens"), (CHAT, "max_completion_tokens"), (COMPLETIONS, "max_tokens")]
)
def test_max_tokens_beyond_the_context(plain: Vllm, path: str, field: str) -> None:
    """1c: max_tokens above max_model_len."""
    body = {"messages": USER} if path == CHAT else {"prompt": "x"}
    status, kind, message, param = refused(plain.post(path, {**body, field: 513}))
    assert (status, kind) == (400, "BadRequestError")
    assert message == (
        f"{field}=513 cannot be greater than max_model_len=512. Please request fewer output tokens. "
        f"(parameter={field}, value=513)"
    )
    assert param == field


def test_max_tokens_is_clamped(plain: Vllm) -> None:
    """1c: prompt and max_tokens together beyond the context: max_tokens is cut to what is left."""
    body = plain.completion([7] * 500, max_tokens=100, ignore_eos=True).json()
    assert body["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_that_fills_the_context(plain: Vllm, stream: bool) -> None:
    """1e: a prompt of exactly max_model_len leaves no token: 400 before any stream begins."""
    message = "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
    answer = plain.completion([7] * 512, stream=stream)
    assert refused(answer) == (400, "BadRequestError", message, "max_tokens")


def test_no_tokens_wanted(plain: Vllm) -> None:
    """1e: max_tokens 0 is refused in a chat, and in a completion unless it only wants its prompt back."""
    assert (
        refused(plain.chat(max_tokens=0))[2] == "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
    )
    echoed = plain.completion("Hello there", max_tokens=0, echo=True)
    assert echoed.json()["choices"][0]["text"] == "Hello there"


CONTRADICTIONS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "stream_options without stream",
        {"stream_options": {"include_usage": True}},
        "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
        "stream_options",
    ),
    (
        "top_logprobs without logprobs",
        {"top_logprobs": 2},
        "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)",
        "top_logprobs",
    ),
    (
        "an empty list of tools",
        {"tools": []},
        (
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely. "
            "(parameter=tools)"
        ),
        "tools",
    ),
    (
        "tool_choice without tools",
        {"tool_choice": "auto"},
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
        "tool_choice",
    ),
]


@pytest.mark.parametrize(
    ("fields", "message", "param"), [case[1:] for case in CONTRADICTIONS], ids=[case[0] for case in CONTRADICTIONS]
)
def test_contradiction(plain: Vllm, fields: dict[str, Any], message: str, param: str) -> None:
    """1c: fields that contradict each other."""
    assert refused(plain.chat(**fields)) == (400, "BadRequestError", message, param)


@pytest.mark.parametrize("prompt", [None, "", ...])
def test_no_prompt(plain: Vllm, prompt: Any) -> None:
    """1c: a completion without a prompt, or with an empty one."""
    response = plain.post(COMPLETIONS, {} if prompt is ... else {"prompt": prompt})
    message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
    assert refused(response) == (400, "BadRequestError", message, "prompt")


def test_missing_field(plain: Vllm) -> None:
    """8: a missing field is told with pydantic's words and its place."""
    assert refused(plain.post(CHAT, {"model": "m"})) == (
        400,
        "Bad Request",
        (
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', "
            "'input': '<dict of 1 items>'}"
        ),
        "body.messages",
    )


def test_malformed_json(plain: Vllm) -> None:
    """8: a body that is not JSON is told where it ends to be."""
    response = plain.client.post(CHAT, content=b"{", headers={"content-type": "application/json"})
    status, kind, message, param = refused(response)
    assert (status, kind, param) == (400, "Bad Request", "body.1")
    assert message.startswith(
        "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode error'"
    )


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_media_type(plain: Vllm, content_type: str) -> None:
    """1b: only application/json is taken."""
    headers = {"content-type": content_type} if content_type else {}
    status, kind, message, _ = refused(plain.client.post(CHAT, content=b'{"messages": []}', headers=headers))
    assert (status, kind) == (400, "Bad Request")
    assert message == "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"


RANGES: list[tuple[str, Any, bool]] = [
    ("temperature", 2.0, True),
    ("temperature", 2.1, False),
    ("temperature", -0.1, False),
    ("top_p", 1.0, True),
    ("top_p", 0.0, False),
    ("top_p", 1.1, False),
    ("top_k", 0, True),
    ("top_k", -1, True),
    ("top_k", -2, False),
    ("min_p", 1.0, True),
    ("min_p", 1.1, False),
    ("presence_penalty", -2.0, True),
    ("presence_penalty", 2.1, False),
    ("frequency_penalty", 2.0, True),
    ("frequency_penalty", -2.1, False),
    ("repetition_penalty", 0.1, True),
    ("repetition_penalty", 0.0, False),
    ("stop", ["a", "b", "c", "d"], True),
    ("stop", ["a", "b", "c", "d", "e"], False),
    ("n", 16385, False),
    ("cache_salt", "a" * 129, False),
    ("cache_salt", "a@b", False),
]


@pytest.mark.parametrize(("field", "value", "taken"), RANGES)
def test_range(plain: Vllm, field: str, value: Any, taken: bool) -> None:
    """1e: each sampling field has vLLM's range."""
    response = plain.chat(**{field: value}, max_tokens=1)
    assert response.status_code == (200 if taken else 400), response.text


def test_min_tokens_above_max_tokens(plain: Vllm) -> None:
    """1e: min_tokens must not exceed max_tokens."""
    message = refused(plain.chat(min_tokens=5, max_tokens=4))[2]
    assert message.startswith("min_tokens must be less than or equal to max_tokens=4")


def test_too_many_prompts(plain: Vllm) -> None:
    """1e: at most 1024 prompts in a completion."""
    assert refused(plain.completion(["x"] * 1025))[2].startswith(
        "prompt list length 1025 exceeds the maximum allowed count of 1024"
    )


def test_rank_that_does_not_exist(plain: Vllm) -> None:
    """1e: a rank that does not exist is 400, or a frame of a stream that has begun."""
    message = "data_parallel_rank 3 is out of range [0, 1)."
    headers = {"X_data_parallel_rank": "3"}
    whole = plain.post(CHAT, {"messages": USER}, **headers)
    assert whole.status_code == 400
    assert refused(whole)[2].startswith(message)
    streamed = plain.post(CHAT, {"messages": USER, "stream": True}, **headers)
    assert streamed.status_code == 200
    assert message in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")


def test_unknown_fields(plain: Vllm) -> None:
    """1b: unknown fields are ignored."""
    assert plain.chat(never_heard_of={"a": 1}, max_tokens=1).status_code == 200


def test_priority_without_the_policy(plain: Vllm) -> None:
    """8: a priority is silently ignored where the policy is first come, first served."""
    assert plain.chat(priority=5, max_tokens=1).status_code == 200


def test_half_a_surrogate_pair(plain: Vllm) -> None:
    """1c: an error that cannot be encoded is told as 400 with the encoding error."""
    body = b'{"model": "\\ud800", "prompt": "x"}'
    response = plain.client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    status, kind, message, _ = refused(response)
    assert (status, kind) == (400, "BadRequestError")
    assert message.startswith("'utf-8' codec can't encode character '\\ud800' in position ")


def test_an_id_of_half_a_surrogate_pair(plain: Vllm) -> None:
    """1c: an answer whose id cannot be encoded is 400 with the encoding error; ranks are numbers of any length."""
    for path, field in ((COMPLETIONS, "prompt"), ("/inference/v1/generate", "token_ids")):
        given = json.dumps("x" if field == "prompt" else [7])
        body = f'{{"request_id": "\\ud800", "{field}": {given}, "sampling_params": {{}}}}'.encode()
        response = plain.client.post(path, content=body, headers={"content-type": "application/json"})
        assert refused(response)[:2] == (400, "BadRequestError")
        asked = {field: json.loads(given), "sampling_params": {"max_tokens": 1}}
        assert plain.post(path, asked, X_data_parallel_rank="9" * 5000).status_code == 200
