"""From a request model to `Work`: names, tokens and limits resolved, errors in vLLM 0.33's order and words.

Pure: nothing is queued and nothing is measured here. Sources: vLLM 0.33 entrypoints/openai/*/serving.py,
renderers/online_renderer.py, renderers/params.py, sampling_params.py and v1/engine/input_processor.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ghostfleet_simulator.api.errors import ApiError, bad_request, validation_error
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.limits import Limits
from ghostfleet_simulator.api.media import hashes_in
from ghostfleet_simulator.api.messages import conversation
from ghostfleet_simulator.api.reporting import reporting
from ghostfleet_simulator.api.requests import (
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionRequest,
    CompletionRequest,
    GenerationRequest,
    TokenizeChatRequest,
)
from ghostfleet_simulator.api.sampling import is_greedy, late_problem, verified
from ghostfleet_simulator.runtime.work import Details, Elsewhere, Kind, Prompt, Work
from ghostfleet_simulator.text.chat import ChatError

_BOOTSTRAP: Final = ("bootstrap_host", "bootstrap_port", "bootstrap_room")
"""SGLang's."""


def chat(request: ChatCompletionRequest, facts: Facts, headers: Mapping[str, str]) -> Work:
    """The work that a chat request asks for; `headers` have lower-case names. Raises `ApiError`."""
    facts.check_model(request.model)
    lora = facts.adapters.get(request.model)
    _check_tool_choice(request, auto=facts.settings.enable_auto_tool_choice)
    messages = chat_messages(request, facts)
    limits = Limits(request, facts, request.max_completion_tokens, request.max_tokens)
    text = chat_prompt(request, messages, facts)
    token_ids = limits.checked_tokens(text)
    role = "assistant" if request.add_generation_prompt or not messages else str(messages[-1]["role"])
    last = messages[-1] if messages else {"role": "", "content": ""}
    request_id = "chatcmpl-" + _base_id(request, facts, headers)
    sampling = verified(request, limits.max_tokens(len(token_ids)), limits.asked)
    prompt = Prompt(
        id=request_id,
        token_ids=token_ids,
        sampling=sampling,
        text=text,
        echo=last["content"],
        prefix=last["content"] if request.echo and last["role"] == role else "",
    )
    # vLLM takes `echo` of a chat for a wish to see the prompt's logprobs.
    top = request.top_logprobs
    details = _details(request, facts, top if request.logprobs else None, top if request.echo else None)
    return Work(
        kind=Kind.CHAT,
        id=request_id,
        model=lora.name if lora else facts.aliases[0],
        prompts=(prompt,),
        stream=bool(request.stream),
        include_usage=(usage := _usage(request, facts))[0],
        continuous_usage=usage[1],
        role=role,
        details=details,
        priority=_priority(request, headers),
        lora=lora,
        cache_salt=request.cache_salt,
        reporting=reporting(request.session_id, request.vllm_xargs, headers),
        # What is found in the cache is not computed, and so has no logprobs.
        reads_prefix_cache=details.prompt_logprobs is None,
        rank=asked_rank(headers),
        elsewhere=elsewhere(request, request.kv_transfer_params, headers),
        encoded=hashes_in(request.messages) if facts.encodes else (),
        rejection=_late(request, facts, headers, [token_ids]),
    )


def completion(request: CompletionRequest, facts: Facts, headers: Mapping[str, str]) -> Work:
    """The work that a completion request asks for; `headers` have lower-case names. Raises `ApiError`."""
    if request.stream and request.use_beam_search:
        raise bad_request("Streaming is not currently supported with beam search")
    facts.check_model(request.model)
    lora = facts.adapters.get(request.model)
    _refuse_suffix(request)
    to_the_end = facts.settings.completions_to_the_end and "max_tokens" not in request.model_fields_set
    limits = Limits(request, facts, None, None if to_the_end else request.max_tokens)
    if request.prompt_embeds is not None:
        raise _refused_embeds(request)
    given = _prompts(request.prompt)
    if not given:
        raise validation_error("You must pass at least one prompt", "prompt")
    tokens = [limits.checked_tokens(one) for one in given]
    prompt_only = bool(request.echo) and request.max_tokens == 0
    request_id = "cmpl-" + _base_id(request, facts, headers)
    prompts = []
    for index, (one, ids) in enumerate(zip(given, tokens, strict=True)):
        most = 1 if prompt_only else limits.max_tokens(len(ids))
        prefix = ""
        if request.echo and not request.return_token_ids:
            prefix = one if isinstance(one, str) else facts.tokenizer.decode(ids, skip_special_tokens=False)
        sampling = verified(request, most, limits.asked)
        prompts.append(Prompt(id=f"{request_id}-{index}", token_ids=ids, sampling=sampling, prefix=prefix))
    details = _details(request, facts, request.logprobs, request.logprobs if request.echo else None)
    return Work(
        kind=Kind.COMPLETION,
        id=request_id,
        model=lora.name if lora else facts.aliases[0],
        prompts=tuple(prompts),
        stream=bool(request.stream),
        include_usage=(usage := _usage(request, facts))[0],
        continuous_usage=usage[1],
        prompt_only=prompt_only,
        details=details,
        priority=_priority(request, headers),
        lora=lora,
        cache_salt=request.cache_salt,
        reporting=reporting(request.session_id, request.vllm_xargs, headers),
        # What is found in the cache is not computed, and so has no logprobs.
        reads_prefix_cache=details.prompt_logprobs is None,
        rank=asked_rank(headers),
        elsewhere=elsewhere(request, request.kv_transfer_params, headers),
        rejection=_late(request, facts, headers, tokens),
    )


def chat_messages(request: ChatCompletionRequest | TokenizeChatRequest, facts: Facts) -> list[dict[str, Any]]:
    """The conversation of a request with plain texts, ready for the template. Raises `ApiError`."""
    kwargs = request.chat_template_kwargs or {}
    if request.chat_template is not None or kwargs.get("chat_template") is not None:
        raise bad_request(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template."
        )
    for name, what in (("mm_processor_kwargs", "preprocessing"), ("media_io_kwargs", "media loading")):
        if getattr(request, name):
            raise validation_error(
                f"Per-request {name} are disabled by default because they can change multimodal {what} resource usage. "
                "Start the server with --trust-request-mm-kwargs only when clients are trusted.",
                name,
            )
    return conversation(request.messages, facts.aliases[0], takes_media=facts.takes_media)


def chat_prompt(
    request: ChatCompletionRequest | TokenizeChatRequest, messages: Sequence[Mapping[str, Any]], facts: Facts
) -> str:
    """The prompt that a conversation makes. Raises `ApiError`."""
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools] if request.tools else None
    variables = {**(request.chat_template_kwargs or {}), "tools": tools}
    try:
        return facts.tokenizer.render_chat(messages, request.add_generation_prompt, variables)
    except ChatError as error:
        raise bad_request(str(error)) from None


def _base_id(request: GenerationRequest, facts: Facts, headers: Mapping[str, str]) -> str:
    given = headers.get("x-request-id")
    if given is not None:
        return given
    return sendable(request.request_id) if "request_id" in request.model_fields_set else facts.new_id()


def sendable(text: str) -> str:
    """The text, which goes into the answer. Raises `ApiError` for half a surrogate pair, as vLLM fails on it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_request(str(error)) from None
    return text


def _details(
    request: ChatCompletionRequest | CompletionRequest,
    facts: Facts,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> Details:
    """`prompt_logprobs` is what the request's own field, where it says nothing, is taken to be."""
    ids, as_ids = request.logprob_token_ids, request.return_tokens_as_token_ids
    settings = facts.settings
    return Details(
        logprobs=logprobs,
        logprob_token_ids=tuple(ids) if ids else None,
        prompt_logprobs=prompt_logprobs if request.prompt_logprobs is None else request.prompt_logprobs,
        greedy=is_greedy(request),
        as_token_ids=settings.return_tokens_as_token_ids if as_ids is None else as_ids,
        token_ids=bool(request.return_token_ids),
        prompt_text=isinstance(request, ChatCompletionRequest) and bool(request.return_prompt_text),
        echo=isinstance(request, CompletionRequest) and bool(request.echo),
        interval=max(request.stream_interval or 1, settings.stream_interval),
    )


def _priority(request: GenerationRequest, headers: Mapping[str, str]) -> int:
    try:
        return int(headers.get("x-vllm-priority", request.priority))
    except ValueError:
        return request.priority


_FORCED: Final = frozenset({"1", "t", "true"})
"""What Go takes for true, in lower case."""


def elsewhere(request: Any, params: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Elsewhere:
    """What other servers have to do with a request, by its body and llm-d-inference-sim's header."""
    share = request.cache_hit_threshold
    if headers.get("x-cache-threshold-finish-reason", "").lower() in _FORCED:
        share = math.inf
    if request.bootstrap_room is not None:
        return Elsewhere({name: getattr(request, name) for name in _BOOTSTRAP}, share)
    return Elsewhere(params, share)


def asked_rank(headers: Mapping[str, str]) -> int | None:
    """The data-parallel rank that a request names, counted from the first behind the address; no number names none."""
    given = headers.get("x-data-parallel-rank")
    if given is None:
        return None
    try:
        return int(given)
    except ValueError:
        return None


def _usage(request: GenerationRequest, facts: Facts) -> tuple[bool, bool]:
    if facts.settings.enable_force_include_usage:
        return True, True
    options = request.stream_options
    include = options is not None and bool(options.include_usage)
    return include, include and options is not None and bool(options.continuous_usage_stats)


def _prompts(prompt: Any) -> list[str | list[int]]:
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    return list(prompt or ())


def _late(
    request: GenerationRequest, facts: Facts, headers: Mapping[str, str], prompts: Sequence[Sequence[int]]
) -> ApiError | None:
    return late_problem(
        request,
        prompts,
        vocab_size=facts.tokenizer.vocab_size,
        max_logprobs=facts.settings.max_logprobs,
        max_model_len=facts.max_model_len,
        rank=asked_rank(headers),
        ranks=facts.ranks,
    )


def _check_tool_choice(request: ChatCompletionRequest, *, auto: bool) -> None:
    """Refused as by a vLLM without `--tool-call-parser`; with `auto`, only one that demands a call."""
    choice = request.tool_choice
    if choice is None or choice == "none":
        return
    if choice == "auto":
        if auto:
            return
        raise bad_request('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    if isinstance(choice, ChatCompletionNamedToolChoiceParam):
        wanted = f'function "{choice.function.name}"'
    else:
        wanted = f'"{choice}"'
    if auto:
        raise ApiError(501, "NotImplementedError", f"tool_choice={wanted}: a simulated server calls no tool")
    raise bad_request(f"tool_choice={wanted} requires --tool-call-parser to be set")


def _refuse_suffix(request: CompletionRequest) -> None:
    if request.suffix is None:
        return
    if request.echo:
        raise bad_request("Echo is unsupported with suffix.", "suffix")
    if request.prompt_embeds is not None:
        raise bad_request("suffix is not supported with prompt_embeds", "suffix")
    if request.truncate_prompt_tokens is not None:
        raise bad_request("suffix is not supported with truncate_prompt_tokens", "suffix")
    prompts = request.prompt if isinstance(request.prompt, list) else [request.prompt]
    if all(isinstance(prompt, str) for prompt in prompts):
        raise bad_request("suffix is only supported for models with FIM completion rendering", "suffix")
    raise bad_request("suffix requires text prompt input for FIM completion rendering", "suffix")


def _refused_embeds(request: CompletionRequest) -> ApiError:
    if request.echo:
        return bad_request("Echo is unsupported with prompt embeds.")
    if request.prompt_logprobs is not None:
        return bad_request("prompt_logprobs is not compatible with prompt embeds.")
    return validation_error("You must set `--enable-prompt-embeds` to input `prompt_embeds`", "prompt_embeds")
