"""What vLLM 0.33 checks in a decoded body before its fields: rules that span fields, in its order and words.

Source: the `mode="before"` validators of vLLM 0.33 entrypoints/openai/{chat_completion,completion}/protocol.py, which
pydantic runs from the last to the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from ghostfleet_simulator.api.errors import bad_request, validation_error

Check = Callable[[dict[str, Any]], None]

MAX_PROMPTS: Final = 1024
"""vLLM's VLLM_MAX_COMPLETION_PROMPTS."""

_TOOL_USAGE: Final = 'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'


def thinking_token_budget(value: Any) -> int | None:
    """The budget, None where it is -1 (unlimited)."""
    if value is None or (value == -1 and type(value) is int):
        return None
    if type(value) is not int or value < 0:
        raise validation_error(
            "`thinking_token_budget` must be a non-negative integer or -1 for unlimited.",
            "thinking_token_budget",
            value,
        )
    return value


def chat(data: dict[str, Any]) -> None:
    """Checks of `POST /v1/chat/completions`."""
    _messages_iterable(data)
    _generation_prompt(data)
    _tools(data)
    _structured_outputs(data, None)
    _chat_logprobs(data)
    _stream_options(data)
    _response_format(data)
    _tool_calls_iterable(data)
    _cache_salt(data)
    _mm_payload(data)


def completion(data: dict[str, Any]) -> None:
    """Checks of `POST /v1/completions`."""
    _prompt_count(data)
    _prompt_given(data)
    _stream_options(data)
    _completion_logprobs(data)
    _structured_outputs(data, "structured_outputs")
    _response_format(data)
    if data.get("max_tokens") is None:
        data.pop("max_tokens", None)  # so it is the default of the field
    _cache_salt(data)
    _mm_payload(data)


def tokenize(data: dict[str, Any]) -> None:
    """Checks of `POST /tokenize`; they are the conversation's, so a body with a text for a prompt passes."""
    if not isinstance(data.get("prompt"), str):
        _generation_prompt(data)


def _messages_iterable(data: Mapping[str, Any]) -> None:
    # vLLM looks for media in the messages before it has made sure that they are a list, and says what Python says.
    messages = data.get("messages", [])
    if messages is None or isinstance(messages, (bool, int, float)):
        raise bad_request(f"'{type(messages).__name__}' object is not iterable")


def _tool_calls_iterable(data: Mapping[str, Any]) -> None:
    for message in data.get("messages", ()):
        if type(message) is dict and isinstance(calls := message.get("tool_calls"), (bool, int, float)):
            raise bad_request(f"'{type(calls).__name__}' object is not iterable")


def _generation_prompt(data: Mapping[str, Any]) -> None:
    if data.get("continue_final_message") and data.get("add_generation_prompt"):
        raise validation_error("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")


def _tools(data: dict[str, Any]) -> None:
    tools = data.get("tools")
    if tools == []:
        raise validation_error(
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.", "tools"
        )
    if "tool_choice" not in data and tools:
        data["tool_choice"] = "auto"
    choice = data.get("tool_choice")
    if choice is None or choice == "none":
        return
    if tools is None:
        raise validation_error("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice not in ("auto", "required") and not isinstance(choice, dict):
        raise validation_error(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.',
            "tool_choice",
        )
    if isinstance(choice, dict):
        _named_tool(choice, tools)


def _named_tool(choice: Mapping[str, Any], tools: Any) -> None:
    function = choice.get("function")
    if not isinstance(function, dict):
        raise validation_error(
            f"Invalid value for `function`: `{function}` in `tool_choice`! {_TOOL_USAGE}", "tool_choice.function"
        )
    if "name" not in function:
        raise validation_error(
            f"Expected field `name` in `function` in `tool_choice`! {_TOOL_USAGE}", "tool_choice.function.name"
        )
    name = function["name"]
    if not isinstance(name, str) or not name:
        raise validation_error(
            f"Invalid `name` in `function`: `{name}` in `tool_choice`! {_TOOL_USAGE}", "tool_choice.function.name"
        )
    # A tool without a name is for the fields' own validation to find.
    with contextlib.suppress(TypeError, KeyError):
        if not any(tool["function"]["name"] == name for tool in tools):
            raise validation_error(
                "The tool specified in `tool_choice` does not match any of the specified `tools`", "tool_choice"
            )


def _structured_outputs(data: Mapping[str, Any], parameter: str | None) -> None:
    given = data.get("structured_outputs")
    if not isinstance(given, dict):
        return
    kinds = sum(given.get(kind) is not None for kind in ("json", "regex", "choice"))
    if kinds > 1:
        raise validation_error(
            "You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice').", parameter
        )
    if kinds and data.get("tool_choice", "none") not in ("none", "auto", "required") and "messages" in data:
        raise validation_error("You can only either use constraints for structured outputs or tools, not both.")


def _integers(data: Mapping[str, Any], *names: str) -> None:
    for name in names:
        value = data.get(name)
        if value is not None and not isinstance(value, (int, float)):
            raise validation_error(f"`{name}` must be an integer.", name, value)


def _prompt_logprobs(data: Mapping[str, Any]) -> None:
    wanted = data.get("prompt_logprobs")
    if wanted is None:
        return
    if data.get("stream") and (wanted > 0 or wanted == -1):
        raise validation_error("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    if wanted < 0 and wanted != -1:
        raise validation_error("`prompt_logprobs` must be a positive value or -1.", "prompt_logprobs", wanted)


def _chat_logprobs(data: Mapping[str, Any]) -> None:
    if data.get("logprob_token_ids") and data.get("use_beam_search"):
        raise validation_error("`logprob_token_ids` is not supported with beam search.", "logprob_token_ids")
    if data.get("logprob_token_ids") and not data.get("logprobs"):
        raise validation_error("when using `logprob_token_ids`, `logprobs` must be set to true.", "logprob_token_ids")
    _integers(data, "prompt_logprobs", "top_logprobs")
    _prompt_logprobs(data)
    top = data.get("top_logprobs")
    if top is not None:
        if top < 0 and top != -1:
            raise validation_error("`top_logprobs` must be a positive value or -1.", "top_logprobs", top)
        if (top == -1 or top > 0) and not data.get("logprobs"):
            raise validation_error("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")


def _completion_logprobs(data: Mapping[str, Any]) -> None:
    ids, logprobs = data.get("logprob_token_ids"), data.get("logprobs")
    if ids and data.get("use_beam_search"):
        raise validation_error("`logprob_token_ids` is not supported with beam search.", "logprob_token_ids")
    if data.get("use_beam_search") and data.get("echo") and logprobs is not None:
        raise validation_error(
            "`echo` with `logprobs` is not supported with beam search because beam search does not compute prompt "
            "logprobs.",
            "echo",
        )
    if ids and data.get("echo") and data.get("max_tokens") == 0:
        raise validation_error(
            "`logprob_token_ids` is not supported when `echo=True` and `max_tokens=0` because no output tokens are "
            "generated.",
            "logprob_token_ids",
        )
    if ids and logprobs is None:
        raise validation_error("when using `logprob_token_ids`, `logprobs` must be set.", "logprob_token_ids")
    _integers(data, "prompt_logprobs", "logprobs")
    _prompt_logprobs(data)
    if logprobs is not None and logprobs < 0 and logprobs != -1:
        raise validation_error("`logprobs` must be a positive value or -1.", "logprobs", logprobs)


def _stream_options(data: Mapping[str, Any]) -> None:
    if data.get("stream_options") and not data.get("stream"):
        raise validation_error("Stream options can only be defined when `stream=True`.", "stream_options")


def _response_format(data: Mapping[str, Any]) -> None:
    given = data.get("response_format")
    if not isinstance(given, dict):
        return
    if given.get("type") == "json_schema" and given.get("json_schema") is None:
        raise validation_error(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.", "response_format"
        )
    if given.get("type") == "structural_tag" and not ("format" in given or {"structures", "triggers"} <= given.keys()):
        raise validation_error("Invalid response_format structural_tag specification.", "response_format")


def _cache_salt(data: Mapping[str, Any]) -> None:
    salt = data.get("cache_salt")
    if salt is None:
        return
    if not isinstance(salt, str) or not salt:
        raise validation_error("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
    if len(salt) > 128 or any(char in "@/\\\x00" for char in salt):
        raise validation_error(
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL.",
            "cache_salt",
        )


def _mm_payload(data: dict[str, Any]) -> None:
    if data.get("return_mm_kwargs") is False and "mm_payload" not in data:
        data["mm_payload"] = "none"


def _prompt_count(data: Mapping[str, Any]) -> None:
    for name in ("prompt", "prompt_embeds"):
        given = data.get(name)
        if not isinstance(given, list) or len(given) <= MAX_PROMPTS:
            continue
        if name == "prompt" and all(isinstance(item, int) for item in given):
            continue
        raise validation_error(
            f"{name} list length {len(given)} exceeds the maximum allowed count of {MAX_PROMPTS}. To increase this "
            "limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable.",
            name,
        )


def _prompt_given(data: Mapping[str, Any]) -> None:
    prompt, embeds = data.get("prompt"), data.get("prompt_embeds")
    if (prompt is None or prompt == "") and (embeds is None or embeds == []):
        raise validation_error("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
