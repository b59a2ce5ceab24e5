"""From a request model to `Work`: names, tokens and limits resolved, errors in vLLM 0.33's order and words.

Pure: nothing is queued and nothing is measured here. Sources: vLLM 0.33 entrypoints/openai/*/serving.py,
renderers/online_renderer.py, renderers/params.py, sampling_params.py and v1/engine/input_processor.py.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ghostfleet_simulator.api.errors import ApiError, bad_request, unknown_model, validation_error
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
from ghostfleet_simulator.config import Api, ServerConfig
from ghostfleet_simulator.runtime.adapters import AdapterNames
from ghostfleet_simulator.runtime.work import Details, Elsewhere, Kind, Prompt, Work
from ghostfleet_simulator.text.chat import ChatError
from ghostfleet_simulator.text.tokenizer import NotText, Tokenizer
from ghostfleet_simulator.versions import NEWEST, Conduct, conduct

_BOOTSTRAP: Final = ("bootstrap_host", "bootstrap_port", "bootstrap_room")
"""SGLang's."""


def _random_id() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know about a server to judge a request."""

    aliases: tuple[str, ...]
    """Names that requests may use; the first one is answered."""
    max_model_len: int
    tokenizer: Tokenizer
    max_prompt_chars: int
    """No text of more characters fits into `max_model_len` tokens."""
    settings: Api = field(default_factory=Api)
    conduct: Conduct = field(default_factory=lambda: conduct(NEWEST))
    """What the version does that is shown."""
    max_num_seqs: int = 256
    """Most sequences that run at a time."""
    adapters: AdapterNames = field(default_factory=AdapterNames)
    """LoRA adapters, which requests may name as their model as well."""
    ranks: int = 1
    """Engines behind this address, for a request to name one by its place among them."""
    new_id: Callable[[], str] = _random_id
    """Makes the id of a request that brings none: 16 hex digits in vLLM."""

    @classmethod
    def of(cls, config: ServerConfig, tokenizer: Tokenizer, adapters: AdapterNames | None = None) -> Facts:
        """The facts of a server; reads the whole vocabulary once."""
        longest = max(len(tokenizer.id_to_token(token_id) or "") for token_id in range(tokenizer.vocab_size))
        model = config.model
        most = model.max_model_len * longest
        return cls(
            aliases=model.aliases,
            max_model_len=model.max_model_len,
            tokenizer=tokenizer,
            max_prompt_chars=most,
            settings=config.api,
            conduct=config.engine.conduct,
            max_num_seqs=config.limits.max_num_seqs,
            adapters=adapters or AdapterNames(),
            ranks=len(config.ranks),
        )

    def check_model(self, name: str | None) -> None:
        """Raises the 404 of a model that is not served; no name at all means the first."""
        if name and name not in self.aliases and name not in self.adapters.by_name:
            raise unknown_model(name, self.aliases if self.conduct.lists_aliases else ())


def chat(request: ChatCompletionRequest, facts: Facts, headers: Mapping[str, str]) -> Work:
    """The work that a chat request asks for; `headers` have lower-case names. Raises `ApiError`."""
    facts.check_model(request.model)
    lora = facts.adapters.get(request.model)
    _refuse_tools(request)
    messages = chat_messages(request, facts)
    limits = _Limits(request, facts, request.max_completion_tokens, request.max_tokens)
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
    limits = _Limits(request, facts, None, None if to_the_end else request.max_tokens)
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
    return conversation(request.messages, facts.aliases[0])


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


def encoded(text: str, facts: Facts, *, add_special_tokens: bool) -> list[int]:
    """Tokens of a text. Raises `ApiError` for a string that is no text."""
    try:
        return facts.tokenizer.encode(text, add_special_tokens)
    except NotText as error:
        raise bad_request(str(error)) from None


class _Limits:
    """How long prompts and answers of one request may be (vLLM's `TokenizeParams` and `get_max_tokens`)."""

    def __init__(
        self,
        request: ChatCompletionRequest | CompletionRequest,
        facts: Facts,
        first: int | None,
        second: int | None,
    ) -> None:
        self.asked = second if first is None else first
        self._keep = request.truncate_prompt_tokens
        self._side = request.truncation_side or "left"
        self._longest = facts.max_model_len
        self._facts = facts
        self._special = request.add_special_tokens
        longest = self._longest
        if self.asked is not None and self.asked > longest:
            name = "max_tokens" if first is None else "max_completion_tokens"
            raise validation_error(
                f"{name}={self.asked} cannot be greater than max_model_len={longest}. "
                "Please request fewer output tokens.",
                name,
                self.asked,
            )
        if self._keep is not None and self._keep > longest:
            raise validation_error(
                f"truncate_prompt_tokens={self._keep} cannot be greater than max_model_len = {longest}. "
                "Please request a smaller truncation size.",
                "truncate_prompt_tokens",
                self._keep,
            )
        # A prompt cut down to the whole context would leave nothing to answer with.
        self._reserve = 0 if self.asked == 0 else 1
        self._most = longest if facts.conduct.clamps_max_tokens else longest - (self.asked or 0)
        """Most tokens of a prompt."""

    def checked_tokens(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a prompt, cut down where the request says so. Raises `ApiError` where it is too long."""
        longest = self._longest
        if isinstance(prompt, str):
            chars = self._facts.max_prompt_chars
            if self._keep is None and len(prompt) > chars:
                raise validation_error(
                    f"This model's maximum context length is {longest} tokens. However, your prompt contains "
                    f"{len(prompt)} characters (more than {chars} characters, which is the upper bound for {longest} "
                    "input tokens). Please reduce the length of the input prompt.",
                    "input_text",
                    len(prompt),
                )
            ids = encoded(prompt, self._facts, add_special_tokens=self._special)
            # vLLM's tokenizer stops one token behind the limit, hence its "at least".
            count = min(len(ids), self._most + 1)
        else:
            ids, count = prompt, len(prompt)
        if self._keep is not None:
            keep = max(0, longest - self._reserve) if self._keep < 0 else self._keep
            if keep < len(ids):
                ids = ids[:keep] if self._side == "right" else ids[len(ids) - keep :]
            return ids
        if count > self._most:
            at_least = "at least " if count == self._most + 1 else ""
            if not self._facts.conduct.clamps_max_tokens:
                raise self._no_room(count, at_least)
            raise validation_error(
                f"This model's maximum context length is {longest} tokens. However, your prompt contains "
                f"{at_least}{count} input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt.",
                "input_tokens",
                count,
            )
        return ids

    def _no_room(self, count: int, at_least: str) -> ApiError:
        """What vLLM up to 0.31 says where prompt and answer together are too long."""
        asked = self.asked or 0
        return validation_error(
            f"This model's maximum context length is {self._longest} tokens. However, you requested {asked} output "
            f"tokens and your prompt contains {at_least}{count} input tokens, for a total of {at_least}{count + asked} "
            "tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
            "input_tokens",
            count,
        )

    def max_tokens(self, prompt_tokens: int) -> int:
        """Most tokens that an answer to a prompt of this length may have; 0 where the prompt fills the context."""
        room = self._longest - prompt_tokens
        return room if self.asked is None else min(room, self.asked)


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


def _refuse_tools(request: ChatCompletionRequest) -> None:
    """A server without a tool parser, as vLLM starts without `--tool-call-parser`."""
    choice = request.tool_choice
    if choice is None or choice == "none":
        return
    if choice == "auto":
        raise bad_request('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    if isinstance(choice, ChatCompletionNamedToolChoiceParam):
        wanted = f'function "{choice.function.name}"'
    else:
        wanted = f'"{choice}"'
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
