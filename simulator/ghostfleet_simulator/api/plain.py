"""Requests that ask for nothing unusual, read in one go.

Nearly all requests are plain: a conversation of roles and texts, or one prompt; one answer; sampling parameters within
their ranges. For these the functions here give the very `Work` that `api.requests` and `api.preflight` give, in a
fraction of the time. Of any other request, wrong ones included, they know nothing and return None.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.json import Decoder

from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.sampling import GREEDY_BELOW
from ghostfleet_simulator.config import Endpoint
from ghostfleet_simulator.runtime.work import Details, Kind, Prompt, Sampling, Work

_Length = Annotated[int, Meta(ge=1)] | None
_Penalty = Annotated[float, Meta(ge=-2, le=2)] | None
_Share = Annotated[float, Meta(ge=0, le=1)] | None
_PositiveShare = Annotated[float, Meta(gt=0, le=1)] | None
_One = Annotated[int, Meta(ge=1, le=1)]
_MESSAGE: Final = {"role", "content"}


class _StreamOptions(Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class _Plain(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of both protocols, with the defaults of `requests.GenerationRequest` and the ranges of `api.sampling`."""

    model: str | None = None
    max_tokens: _Length = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _PositiveShare = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: _Share = None
    presence_penalty: _Penalty = None
    frequency_penalty: _Penalty = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: None = None
    user: str | None = None
    ignore_eos: bool = False
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    skip_special_tokens: bool | None = None


class _Chat(_Plain):
    messages: list[dict[str, str]]
    max_completion_tokens: _Length = None
    n: _One | None = 1
    logprobs: bool | None = False


class _Completion(_Plain):
    prompt: str | list[Annotated[int, Meta(ge=0)]]
    n: _One = 1
    echo: bool | None = False
    logprobs: None = None


_CHAT: Final = Decoder(_Chat)
_COMPLETION: Final = Decoder(_Completion)


def plain_work(endpoint: Endpoint, body: bytes, request_id: str | None, facts: Facts) -> Work | None:
    """The work that a plain request is; `request_id` is its `X-Request-Id`. None for any other."""
    try:
        if endpoint is Endpoint.CHAT:
            return _chat(_CHAT.decode(body), request_id, facts)
        return _completion(_COMPLETION.decode(body), request_id, facts)
    except (ValueError, RecursionError):
        # Of msgspec, of the chat template, of the tokenizer, and of bytes in a field's name that are no UTF-8.
        return None


def _chat(request: _Chat, request_id: str | None, facts: Facts) -> Work | None:
    messages, tokenizer = request.messages, facts.tokenizer
    if request.logprobs or not messages or any(message.keys() != _MESSAGE for message in messages):
        return None
    text = tokenizer.render_chat(messages, True, {"tools": None})
    if len(text) > facts.max_prompt_chars:
        return None
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    sampling = _sampling(request, len(token_ids), asked, facts)
    if sampling is None:
        return None
    name = "chatcmpl-" + (facts.new_id() if request_id is None else request_id)
    prompt = Prompt(name, token_ids, sampling, messages[-1]["content"], text)
    return _work(Kind.CHAT, name, request, prompt, facts)


def _completion(request: _Completion, request_id: str | None, facts: Facts) -> Work | None:
    given = request.prompt
    to_the_end = request.max_tokens is None and facts.settings.completions_to_the_end
    if request.echo or not given or to_the_end:
        return None
    if isinstance(given, str):
        if len(given) > facts.max_prompt_chars:
            return None
        token_ids = facts.tokenizer.encode(given)
    elif max(given) < facts.tokenizer.vocab_size:
        token_ids = given
    else:
        return None
    asked = 16 if request.max_tokens is None else request.max_tokens
    sampling = _sampling(request, len(token_ids), asked, facts)
    if sampling is None:
        return None
    name = "cmpl-" + (facts.new_id() if request_id is None else request_id)
    return _work(Kind.COMPLETION, name, request, Prompt(name + "-0", token_ids, sampling), facts)


def _sampling(request: _Plain, prompt_tokens: int, asked: int | None, facts: Facts) -> Sampling | None:
    """None where prompt and answer have no room, or the answer cannot be as long as it has to be."""
    longest = facts.max_model_len
    room = longest - prompt_tokens
    if not prompt_tokens or room < 1:
        return None
    if asked is None:
        most = room
    elif asked > longest or (asked > room and not facts.conduct.clamps_max_tokens):
        return None
    else:
        most = min(room, asked)
    if request.min_tokens > most:
        return None
    return Sampling(
        max_tokens=most,
        requested_max_tokens=asked,
        min_tokens=request.min_tokens,
        ignore_eos=request.ignore_eos,
        skip_special_tokens=request.skip_special_tokens is not False,
        seed=None if request.seed == -1 else request.seed,
    )


def _work(kind: Kind, name: str, request: _Plain, prompt: Prompt, facts: Facts) -> Work | None:
    """None for a model that there is not, and for options of a stream where there is none."""
    model, options, settings = request.model, request.stream_options, facts.settings
    if options is not None and not request.stream:
        return None
    lora = facts.adapters.get(model)
    if lora is not None:
        answering = lora.name
    elif model and model not in facts.aliases:
        return None
    else:
        answering = facts.aliases[0]
    continuous = include = settings.enable_force_include_usage
    if options is not None and not include:
        include = bool(options.include_usage)
        continuous = include and bool(options.continuous_usage_stats)
    return Work(
        kind=kind,
        id=name,
        model=answering,
        prompts=(prompt,),
        stream=bool(request.stream),
        include_usage=include,
        continuous_usage=continuous,
        details=Details(
            greedy=request.temperature is not None and request.temperature < GREEDY_BELOW,
            as_token_ids=settings.return_tokens_as_token_ids,
            interval=settings.stream_interval,
        ),
        lora=lora,
    )
