"""`/v1/chat/completions/render` and `/v1/completions/render`: the request for `/inference/v1/generate` that is meant.

Source: vLLM 0.33 entrypoints/scale_out/render/serving.py; the sampling parameters are those of `SamplingParams`, of
which vLLM writes a field only if its value is another object than the default. A number with a fraction, read from a
body, always is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from pydantic import BaseModel

from ghostfleet_simulator.api import preflight
from ghostfleet_simulator.api.errors import bad_request
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    RepetitionDetectionParams,
    ResponseFormat,
    StructuredOutputsParams,
)
from ghostfleet_simulator.api.sampling import is_greedy
from ghostfleet_simulator.runtime.work import Prompt, Work

_DELTA, _FINAL_ONLY = 1, 2
"""vLLM's RequestOutputKind."""
_LEAST_TEMPERATURE: Final = 0.01
_ALWAYS: Final = object()

_Request = ChatCompletionRequest | CompletionRequest


def render_chat(request: ChatCompletionRequest, facts: Facts, headers: Mapping[str, str]) -> dict[str, Any]:
    """The one request that a chat comes to. Raises `ApiError`."""
    _check(request, facts)
    work = preflight.chat(request, facts, headers)
    rendered = _rendered(request, work, work.prompts[0], work.id)
    rendered["reasoning_ended"] = None if request.include_reasoning else True
    rendered["parse_context"] = {
        "tools": _dumped(request.tools),
        "tool_choice": _dumped(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
        "include_reasoning": request.include_reasoning,
        "chat_template_kwargs": dict(_template_variables(request)),
        "history_tool_call_cnt": _history_tool_calls(request.messages),
    }
    return rendered


def render_completion(request: CompletionRequest, facts: Facts, headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """The requests that a completion comes to, one per prompt. Raises `ApiError`."""
    _check(request, facts)
    work = preflight.completion(request, facts, headers)
    if len(work.prompts) == 1:
        return [_rendered(request, work, work.prompts[0], work.id)]
    return [_rendered(request, work, prompt, f"{work.id}-{index}") for index, prompt in enumerate(work.prompts)]


def _check(request: _Request, facts: Facts) -> None:
    facts.check_model(request.model)
    if request.use_beam_search:
        raise bad_request("Beam search is not supported by the render endpoint")


def _template_variables(request: ChatCompletionRequest) -> Iterator[tuple[str, Any]]:
    given = request.chat_template_kwargs or {}
    effort = request.reasoning_effort
    more: dict[str, Any] = {
        "add_generation_prompt": request.add_generation_prompt,
        "continue_final_message": request.continue_final_message,
        "documents": request.documents,
        "reasoning_effort": effort,
    }
    if effort is not None and "enable_thinking" not in given:
        more["enable_thinking"] = effort != "none"
    yield from given.items()
    yield from ((name, value) for name, value in more.items() if value is not None and value != "auto")


def _rendered(request: _Request, work: Work, prompt: Prompt, request_id: str) -> dict[str, Any]:
    if not prompt.token_ids:
        raise bad_request("No token_ids rendered")
    return {
        "request_id": request_id,
        "token_ids": prompt.token_ids,
        "token_offsets": None,
        "features": None,
        "content_parts": None,
        "sampling_params": _sampling_params(request, work, prompt),
        "model": request.model,
        "reasoning_ended": None,
        "reasoning_parser_kwargs": None,
        "return_token_ids": request.return_token_ids,
        "output_mode": "tokens",
        "parse_context": None,
        "stream": bool(request.stream),
        "stream_options": _dumped(request.stream_options) if request.stream else None,
        "cache_salt": request.cache_salt,
        "priority": request.priority,
        "kv_transfer_params": request.kv_transfer_params or None,
        "ec_transfer_params": request.ec_transfer_params or None,
    }


def _sampling_params(request: _Request, work: Work, prompt: Prompt) -> dict[str, Any]:
    """The fields that vLLM writes, in its order."""
    sampling, details, greedy = prompt.sampling, work.details, is_greedy(request)
    temperature = _number(request.temperature, 1.0)
    ids = request.logprob_token_ids or None
    longest_stop = 0 if request.include_stop_str_in_output else max(map(len, sampling.stop), default=0)
    outputs, bias, repetition = _structured_outputs(request), request.logit_bias, request.repetition_detection
    hidden = {"_backend": None, "_backend_was_auto": False}
    # Name, value, and the default where the field is left out if it has that.
    table: tuple[tuple[str, Any, Any], ...] = (
        ("n", sampling.n, 1),
        ("presence_penalty", _number(request.presence_penalty, 0.0), _ALWAYS),
        ("frequency_penalty", _number(request.frequency_penalty, 0.0), _ALWAYS),
        ("repetition_penalty", _number(request.repetition_penalty, 1.0), _ALWAYS),
        ("temperature", max(temperature, _LEAST_TEMPERATURE) if temperature > 0 else temperature, _ALWAYS),
        ("watermarking", request.watermarking, None),
        ("top_p", None if greedy else _number(request.top_p, 1.0), None),
        ("top_k", 0 if greedy else request.top_k or 0, 0),
        ("min_p", None if greedy else _number(request.min_p, 0.0), None),
        ("seed", sampling.seed, None),
        ("stop", list(sampling.stop), _ALWAYS),
        ("stop_token_ids", list(dict.fromkeys(request.stop_token_ids or ())), _ALWAYS),
        ("ignore_eos", request.ignore_eos, False),
        ("max_tokens", sampling.max_tokens, 16),
        ("min_tokens", request.min_tokens, 0),
        ("logprobs", details.logprobs if ids is None else None, None),
        ("prompt_logprobs", details.prompt_logprobs, None),
        ("logprob_token_ids", ids, None),
        ("skip_special_tokens", request.skip_special_tokens is not False, True),
        ("spaces_between_special_tokens", request.spaces_between_special_tokens, True),
        ("include_stop_str_in_output", request.include_stop_str_in_output, False),
        ("output_kind", _DELTA if request.stream else _FINAL_ONLY, _ALWAYS),
        ("stream_interval", request.stream_interval, None),
        ("skip_clone", True, _ALWAYS),
        ("output_text_buffer_length", max(longest_stop - 1, 0), 0),
        ("structured_outputs", None if outputs is None else {**_fields(outputs), **hidden}, None),
        ("logit_bias", None if bias is None else {int(key): _bounded(value) for key, value in bias.items()}, None),
        ("allowed_token_ids", request.allowed_token_ids, None),
        ("extra_args", request.vllm_xargs or None, None),
        ("bad_words", list(dict.fromkeys(request.bad_words)), _ALWAYS),
        ("skip_reading_prefix_cache", details.prompt_logprobs is not None, _ALWAYS),
        ("thinking_token_budget", request.thinking_token_budget, None),
        ("repetition_detection", None if repetition is None else _fields(repetition), None),
        ("routed_experts_prompt_start", request.routed_experts_prompt_start, 0),
    )
    return {name: value for name, value, default in table if default is _ALWAYS or value != default}


def _structured_outputs(request: _Request) -> StructuredOutputsParams | None:
    wanted, given = request.response_format, request.structured_outputs
    override: dict[str, Any]
    if wanted is None or wanted.type == "text":
        return given
    if not isinstance(wanted, ResponseFormat):
        override = {"structural_tag": json.dumps(wanted.model_dump(by_alias=True))}
    elif wanted.type == "json_schema" and wanted.json_schema is not None:
        override = {"json": wanted.json_schema.json_schema}
    else:
        override = {"json_object": True}
    return StructuredOutputsParams(**(override if given is None else _fields(given) | override))


def _history_tool_calls(messages: Sequence[Any]) -> int:
    return sum(len(message.get("tool_calls") or ()) for message in messages if isinstance(message, Mapping))


def _bounded(bias: float) -> float:
    return min(100.0, max(-100.0, bias))


def _fields(params: StructuredOutputsParams | RepetitionDetectionParams) -> dict[str, Any]:
    return {field.name: getattr(params, field.name) for field in fields(params)}


def _number(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _dumped(value: Any) -> Any:
    if isinstance(value, list):
        return [_dumped(item) for item in value]
    return value.model_dump() if isinstance(value, BaseModel) else value
