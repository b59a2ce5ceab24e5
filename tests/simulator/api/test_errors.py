"""Bodies that do not fit are answered with vLLM 0.33's status, type, message and param, word for word."""

from __future__ import annotations

import json
import time

import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from ghostfleet_simulator.api.bodies import Parser
from ghostfleet_simulator.api.errors import (
    ApiError,
    internal_error,
    sanitized,
    unavailable,
    unknown_model,
    validation_error,
)
from ghostfleet_simulator.api.requests import CHAT, COMPLETION, DETOKENIZE, TOKENIZE

JSON = "application/json"


def refusal(parser: Parser[object], body: object, content_type: str = JSON) -> ApiError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as caught:
        parser.parse(raw, content_type)
    return caught.value


def chat(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


def test_an_error_is_one_object_of_four_fields_without_spaces() -> None:
    """Key order and compactness are those of vLLM's ErrorResponse behind starlette's JSONResponse."""
    assert unknown_model("x", ("a", "b")).to_json() == (
        b'{"error":{"message":"The model `x` does not exist. Valid aliases: a, b.","type":"NotFoundError",'
        b'"param":"model","code":404}}'
    )


def test_frames_of_the_two_protocols_differ_as_in_vllm() -> None:
    """In a stream a chat's error is compact, a completion's has spaces and is ASCII."""
    error = ApiError(400, "BadRequestError", "é")
    assert (
        error.chat_frame()
        == 'data: {"error":{"message":"é","type":"BadRequestError","param":null,"code":400}}\n\n'.encode()
    )
    assert error.completion_frame() == (
        b'data: {"error": {"message": "\\u00e9", "type": "BadRequestError", "param": null, "code": 400}}\n\n'
    )


@pytest.mark.parametrize(
    ("error", "message", "param"),
    [
        (validation_error("No."), "No.", None),
        (validation_error("No.", "n"), "No. (parameter=n)", "n"),
        (validation_error("No.", "n", 0), "No. (parameter=n, value=0)", "n"),
        (validation_error("No.", None, [1]), "No. (value=[1])", None),
    ],
)
def test_validation_errors_name_parameter_and_value(error: ApiError, message: str, param: str | None) -> None:
    """vLLM appends what it knows of a wrong parameter; 0 counts as known."""
    assert (error.status, error.type, error.message, error.param) == (400, "BadRequestError", message, param)


def test_errors_of_the_server_itself() -> None:
    """An overload carries the phrase of its status, a fault of the server a fixed type."""
    assert unavailable("busy").body()["error"] == {
        "message": "busy",
        "type": "Service Unavailable",
        "param": None,
        "code": 503,
    }
    assert internal_error().body()["error"]["type"] == "InternalServerError"


def test_messages_leak_no_addresses_and_no_paths() -> None:
    """vLLM strips memory addresses, trace lines and absolute paths from what it tells a client."""
    assert sanitized("<object X at 0x7f00> in /usr/lib/python/x.py") == "<object X> in <path>"
    assert sanitized('bad\n  File "/a/b.py", line 3, in f\n    code') == "bad"


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (
            b"{",
            (
                "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode error', "
                "'input': '<dict of 0 items>', 'ctx': {'error': 'Expecting property name enclosed in double quotes'}}"
            ),
            "body.1",
        ),
        (
            b"{}",
            (
                "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', "
                "'input': '<dict of 0 items>'}"
            ),
            "body.messages",
        ),
        (
            b"",
            "1 validation error:\n  {'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}",
            "body",
        ),
        (
            b"[]",
            (
                "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be "
                "a valid "
                "dictionary or object to extract fields from', 'input': '<list of 0 items>'}"
            ),
            "body",
        ),
        (
            b'{"messages": "hi"}',
            (
                "1 validation error:\n  {'type': 'list_type', 'loc': 'body.messages', 'msg': 'Input should be a "
                "valid list', "
                "'input': 'hi'}"
            ),
            "body.messages",
        ),
        (
            b'{"messages": [], "max_tokens": "many", "n": 1.5}',
            (
                "2 validation errors:\n  {'type': 'int_parsing', 'loc': 'body.max_tokens', 'msg': 'Input should "
                "be a valid "
                "integer, unable to parse string as an integer', 'input': 'many'}\n  {'type': 'int_from_float', 'loc': "
                "'body.n', 'msg': 'Input should be a valid integer, got a number with a fractional part', "
                "'input': '1.5'}"
            ),
            "body.max_tokens",
        ),
        (
            b'{"messages": [], "stop": ["a", "b", "c", "d", "e"]}',
            (
                "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid "
                "string', "
                "'input': '<list of 5 items>'}\n  {'type': 'too_long', 'loc': 'body.stop', 'msg': 'List should have "
                "at most 4 "
                "items after validation, not 5', 'input': '<list of 5 items>', 'ctx': {'field_type': 'List', "
                "'max_length': 4, "
                "'actual_length': 5}}"
            ),
            "body.stop",
        ),
        (
            b'{"messages": [], "seed": 1180591620717411303424}',
            (
                "1 validation error:\n  {'type': 'less_than_equal', 'loc': 'body.seed', 'msg': 'Input should be less "
                "than or "
                "equal to 9223372036854775807', 'input': '1180591620717411303424', 'ctx': {'le': 9223372036854775807}}"
            ),
            "body.seed",
        ),
    ],
)
def test_a_body_that_does_not_fit_is_told_as_by_fastapi(body: bytes, message: str, param: str) -> None:
    """400 "Bad Request" with pydantic's errors rendered the way vLLM's handler renders them."""
    error = refusal(CHAT, body)
    assert (error.status, error.type, error.message, error.param) == (400, "Bad Request", message, param)


def test_errors_come_in_the_order_of_vllms_fields() -> None:
    """`messages` is the first field of vLLM's model, `user` one of the last; inheritance here must not show."""
    message = refusal(CHAT, {"user": 1, "messages": "x", "temperature": "x", "n": "y"}).message
    places = [message.index(f"'body.{name}'") for name in ("messages", "n", "temperature", "user")]
    assert places == sorted(places)


def test_at_most_ten_errors_are_told() -> None:
    """A message without a role fails in each of the eight branches of the union: eleven errors, ten shown."""
    error = refusal(CHAT, {"messages": [{"content": "x"}]})
    assert error.message.startswith("11 validation errors:\n  {'type': 'missing', 'loc': 'body.messages.0.")
    assert error.message.endswith("\n  ...and 1 more errors")
    assert error.message.count("\n") == 11


def test_of_a_long_list_the_first_wrong_item_is_told() -> None:
    """Telling all of them would hold the server up: a megabyte of wrong messages is millions of errors in vLLM."""
    began = time.monotonic()
    message = refusal(CHAT, {"messages": [{"role": "user", "content": "x"}] * 1000 + [7] * 100_000}).message
    assert time.monotonic() - began < 2
    assert message.startswith("8 validation errors:\n  {'type': 'dict_type', 'loc': 'body.messages.1000.")
    assert refusal(DETOKENIZE, {"tokens": [-1] * 20}).message.startswith("20 validation errors:")


def complaints(adapter: TypeAdapter[object], value: object) -> list[tuple[str, str]]:
    """Path without type names, and text, of every error."""
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        return [(".".join(str(p) for p in e["loc"] if "[" not in str(p)), e["msg"]) for e in error.errors()]
    return []


@pytest.mark.parametrize(
    "message",
    [
        {"content": "x"},
        {"role": "user"},
        {"role": 5, "content": "x"},
        {"role": "user", "content": 5},
        {"role": "assistant", "content": 5, "audio": {}},
        {"role": "tool", "content": "x"},
        5,
        "text",
        None,
    ],
)
def test_messages_are_judged_as_the_openai_types_judge_them(message: object) -> None:
    """vLLM validates against the openai package's types first; ours must find the very same things, in that order."""
    theirs = complaints(TypeAdapter(list[ChatCompletionMessageParam]), [message])
    ours = complaints(CHAT.adapter, {"messages": [message]})
    if ours:
        assert ours[: len(theirs)] == [("messages." + path, text) for path, text in theirs]
    else:  # vLLM takes more roles and shapes than the openai package does
        assert isinstance(message, dict)
        assert isinstance(message.get("role"), str)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json-seq", "multipart/form-data", "application/x+json"]
)
def test_only_json_is_taken(content_type: str) -> None:
    """A body that is not declared as JSON is refused before it is looked at."""
    error = refusal(CHAT, chat(), content_type)
    assert (error.status, error.type, error.param) == (400, "Bad Request", None)
    assert error.message == "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"


def test_a_content_type_may_have_parameters_and_any_case() -> None:
    """`Application/JSON; charset=utf-8` is JSON."""
    assert CHAT.parse(json.dumps(chat()).encode(), "Application/JSON; charset=utf-8").model == "m"


@pytest.mark.parametrize(
    "body", [b"\xff\xfe\xfa", b'{"messages": "\xff"}', b"[" * 100_000, b'{"seed": 1' + b"0" * 5000 + b"}"]
)
def test_bytes_that_are_no_text_are_refused(body: bytes) -> None:
    """Undecodable bytes, bottomless brackets and endless digits end in one line, not in a traceback."""
    with pytest.raises(HTTPException) as caught:
        CHAT.parse(body, JSON)
    assert (caught.value.status_code, caught.value.detail) == (400, "There was an error parsing the body")


def test_unknown_fields_are_accepted() -> None:
    """vLLM's models allow extra fields; clients send many."""
    assert CHAT.parse(json.dumps(chat(never_heard_of=1)).encode(), JSON).n == 1


def test_nan_is_read_as_python_reads_it() -> None:
    """json.loads takes NaN, so the range check is what refuses it."""
    request = COMPLETION.parse(b'{"prompt": "x", "temperature": NaN}', JSON)
    assert request.temperature != request.temperature


CROSS_FIELD = [
    (CHAT, chat(messages=None), "'NoneType' object is not iterable", None),
    (CHAT, chat(messages=5), "'int' object is not iterable", None),
    (CHAT, chat(messages=[{"role": "assistant", "tool_calls": 5}]), "'int' object is not iterable", None),
    (
        CHAT,
        chat(response_format={"type": "structural_tag"}),
        "Invalid response_format structural_tag specification. (parameter=response_format)",
        "response_format",
    ),
    (
        CHAT,
        chat(repetition_detection={"max_pattern_size": -1}),
        (
            "max_pattern_size, min_pattern_size must be >=0, with min_pattern_size <= max_pattern_size. Set both "
            "to 0 to "
            "disable repetitive pattern detection."
        ),
        None,
    ),
    (
        CHAT,
        chat(stream_options={"include_usage": True}),
        "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
        "stream_options",
    ),
    (
        CHAT,
        chat(top_logprobs=3),
        "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)",
        "top_logprobs",
    ),
    (
        CHAT,
        chat(top_logprobs=-2, logprobs=True),
        "`top_logprobs` must be a positive value or -1. (parameter=top_logprobs, value=-2)",
        "top_logprobs",
    ),
    (
        CHAT,
        chat(top_logprobs="3"),
        "`top_logprobs` must be an integer. (parameter=top_logprobs, value=3)",
        "top_logprobs",
    ),
    (
        CHAT,
        chat(tools=[]),
        (
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely. "
            "(parameter=tools)"
        ),
        "tools",
    ),
    (
        CHAT,
        chat(tool_choice="auto"),
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
        "tool_choice",
    ),
    (
        CHAT,
        chat(tool_choice="any", tools=[{"function": {"name": "f"}}]),
        (
            'Invalid value for `tool_choice`: any! Only named tools, "none", "auto" or "required" are supported. '
            "(parameter=tool_choice)"
        ),
        "tool_choice",
    ),
    (
        CHAT,
        chat(tool_choice={"function": {"name": "g"}}, tools=[{"function": {"name": "f"}}]),
        "The tool specified in `tool_choice` does not match any of the specified `tools` (parameter=tool_choice)",
        "tool_choice",
    ),
    (
        CHAT,
        chat(continue_final_message=True, add_generation_prompt=True),
        "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
        None,
    ),
    (
        CHAT,
        chat(response_format={"type": "json_schema"}),
        (
            "When response_format type is 'json_schema', the 'json_schema' field must be provided. "
            "(parameter=response_format)"
        ),
        "response_format",
    ),
    (
        CHAT,
        chat(cache_salt="a@b"),
        (
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL. "
            "(parameter=cache_salt)"
        ),
        "cache_salt",
    ),
    (
        CHAT,
        chat(thinking_token_budget=-2),
        (
            "`thinking_token_budget` must be a non-negative integer or -1 for unlimited. "
            "(parameter=thinking_token_budget, value=-2)"
        ),
        "thinking_token_budget",
    ),
    (
        CHAT,
        chat(prompt_logprobs=1, stream=True),
        "`prompt_logprobs` are not available when `stream=True`. (parameter=prompt_logprobs)",
        "prompt_logprobs",
    ),
    *(
        (
            COMPLETION,
            {"model": "m", **prompt},
            "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
            "prompt",
        )
        for prompt in ({}, {"prompt": ""}, {"prompt": None})
    ),
    (
        COMPLETION,
        {"prompt": ["x"] * 1025},
        (
            "prompt list length 1025 exceeds the maximum allowed count of 1024. To increase this limit, set the "
            "VLLM_MAX_COMPLETION_PROMPTS environment variable. (parameter=prompt)"
        ),
        "prompt",
    ),
    (
        COMPLETION,
        {"prompt": "x", "logprobs": -2},
        "`logprobs` must be a positive value or -1. (parameter=logprobs, value=-2)",
        "logprobs",
    ),
]


@pytest.mark.parametrize(("parser", "body", "message", "param"), CROSS_FIELD)
def test_rules_that_span_fields(parser: Parser[object], body: object, message: str, param: str | None) -> None:
    """What vLLM's own validators raise is a BadRequestError, not a "Bad Request"."""
    error = refusal(parser, body)
    assert (error.status, error.type, error.message, error.param) == (400, "BadRequestError", message, param)


def test_stream_options_are_judged_before_a_missing_field() -> None:
    """vLLM's validators run before the fields', so the first complaint is theirs."""
    assert (
        refusal(CHAT, {"messages": [], "stream_options": {"include_usage": True}, "n": "x"}).param == "stream_options"
    )


def test_null_max_tokens_of_a_completion_is_its_default() -> None:
    """A completion that says null gets 16, a chat as many as fit."""
    assert COMPLETION.parse(b'{"prompt": "x", "max_tokens": null}', JSON).max_tokens == 16
    assert CHAT.parse(json.dumps(chat(max_tokens=None)).encode(), JSON).max_tokens is None


def test_tokenize_takes_a_text_or_a_conversation() -> None:
    """A body that is neither is told what each of the two lacks."""
    assert TOKENIZE.parse(b'{"prompt": "x"}', JSON).add_special_tokens is True
    assert TOKENIZE.parse(json.dumps(chat()).encode(), JSON).add_special_tokens is False
    error = refusal(TOKENIZE, {"model": "m"})
    assert error.message == (
        "2 validation errors:\n  {'type': 'missing', 'loc': 'body.prompt', 'msg': 'Field required', 'input': "
        "'<dict of 1 "
        "items>'}\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of 1 items>'}"
    )
    assert error.param == "body.prompt"


def test_detokenize_takes_no_negative_ids() -> None:
    """The list and its items are checked; the item is named by its index."""
    assert refusal(DETOKENIZE, {"tokens": [1, -1]}).param == "body.tokens.1"
