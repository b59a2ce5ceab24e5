"""Bodies and stream chunks as bytes, field for field as vLLM 0.33 writes them.

What does not change within a request is encoded once; a token then costs one concatenation. Fragments of text are given
as the inside of a JSON string (`escaped`). `api.schema` declares the same bodies, and tests hold the two together.
Source: vLLM 0.33 entrypoints/openai/{chat_completion,completion}/serving.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from ghostfleet_simulator.api.media import ec_transfer_params
from ghostfleet_simulator.runtime.work import Kind, Prompt, Work

DONE: Final = b"data: [DONE]\n\n"
"""The frame that ends every stream."""

_encode: Final = msgspec.json.Encoder().encode


def escaped(text: str) -> bytes:
    """A text as the inside of a JSON string, without its quotes."""
    return _encode(text)[1:-1]


class Told(NamedTuple):
    """What comes with some tokens of an answer, as JSON."""

    logprobs: bytes = b"null"
    token_ids: bytes = b"null"
    prompt_token_ids: bytes = b"null"


NOTHING: Final = Told()


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer."""

    index: int
    text: bytes
    """As the inside of a JSON string."""
    finish_reason: str
    stop_reason: int | str | None = None
    told: Told = NOTHING
    prompt_logprobs: bytes = b"null"
    """As JSON; that of a chat is its first choice's."""
    kv_transfer_params: bytes = b"null"
    """As JSON; that of a request is its first choice's."""


class Usage(NamedTuple):
    """Tokens of a request, all its prompts and answers together; what is not to be told of the prefix cache is None."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    created_cache_tokens: int | None = None


Times = Mapping[str, float | None]
"""The `metrics` of an answer."""


def _usage(usage: Usage, tail: bytes) -> bytes:
    prompt, completion = usage[:2]
    return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
        prompt,
        prompt + completion,
        completion,
        tail,
    )


_WHOLE_USAGE: Final = b',"prompt_tokens_details":null,"completion_tokens_details":null'


def _whole_usage(usage: Usage) -> bytes:
    if usage.cached_tokens is None:
        return _usage(usage, _WHOLE_USAGE)
    details = b'{"cached_tokens":%d,"created_cache_tokens":%b,"multimodal_tokens":null}' % (
        usage.cached_tokens,
        _encode(usage.created_cache_tokens),
    )
    return _usage(usage, b',"prompt_tokens_details":%b,"completion_tokens_details":null' % details)


def _last_usage(usage: Usage) -> bytes:
    """The usage as it stands behind a stream, where vLLM leaves out what is null."""
    if usage.cached_tokens is None:
        return _usage(usage, b"")
    created = b"" if usage.created_cache_tokens is None else b',"created_cache_tokens":%d' % usage.created_cache_tokens
    return _usage(usage, b',"prompt_tokens_details":{"cached_tokens":%d%b}' % (usage.cached_tokens, created))


def _chat_body(
    work: Work, choices: Sequence[Choice], usage: Usage, created: int, fingerprint: str | None, times: Times | None
) -> bytes:
    role = _encode(work.role)
    answers = b",".join(
        b'{"index":%d,"message":{"role":%b,"content":"%b","refusal":null,"annotations":null,"audio":null,'
        b'"function_call":null,"reasoning":null},"logprobs":%b,"finish_reason":%b,"stop_reason":%b,"token_ids":%b,'
        b'"routed_experts":null,"weight_versions":null}'
        % (
            choice.index,
            role,
            choice.text,
            choice.told.logprobs,
            _encode(choice.finish_reason),
            _encode(choice.stop_reason),
            choice.told.token_ids,
        )
        for choice in choices
    )
    return (
        b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[%b],"service_tier":null,'
        b'"system_fingerprint":%b,"usage":%b,"prompt_logprobs":%b,"prompt_token_ids":%b,"prompt_text":%b,'
        b'"kv_transfer_params":%b,"ec_transfer_params":%b,"metrics":%b}'
        % (
            _encode(work.id),
            created,
            _encode(work.model),
            answers,
            _encode(fingerprint),
            _whole_usage(usage),
            choices[0].prompt_logprobs,
            *_chat_prompt(work, work.prompts[0]),
            choices[0].kv_transfer_params,
            _encode(ec_transfer_params(work.encoded)),
            _encode(times),
        )
    )


def _chat_prompt(work: Work, prompt: Prompt) -> tuple[bytes, bytes]:
    """The prompt's tokens and text, where they were asked for."""
    details = work.details
    return (
        _encode(prompt.token_ids if details.token_ids else None),
        _encode(prompt.text if details.prompt_text else None),
    )


def _completion_body(
    work: Work, choices: Sequence[Choice], usage: Usage, created: int, fingerprint: str | None, times: Times | None
) -> bytes:
    answers = b",".join(
        b'{"index":%d,"text":"%b","logprobs":%b,"finish_reason":%b,"stop_reason":%b,"token_ids":%b,'
        b'"prompt_logprobs":%b,"prompt_token_ids":%b,"routed_experts":null,"weight_versions":null}'
        % (
            choice.index,
            choice.text,
            choice.told.logprobs,
            _encode(choice.finish_reason),
            _encode(choice.stop_reason),
            choice.told.token_ids,
            choice.prompt_logprobs,
            choice.told.prompt_token_ids,
        )
        for choice in choices
    )
    return (
        b'{"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":[%b],"service_tier":null,'
        b'"system_fingerprint":%b,"usage":%b,"kv_transfer_params":%b,"ec_transfer_params":null,"metrics":%b}'
        % (
            _encode(work.id),
            created,
            _encode(work.model),
            answers,
            _encode(fingerprint),
            _whole_usage(usage),
            choices[0].kv_transfer_params,
            _encode(times),
        )
    )


def _named(told: Told) -> dict[bytes, bytes]:
    return {
        b"logprobs": told.logprobs,
        b"token_ids": told.token_ids,
        b"prompt_token_ids": told.prompt_token_ids,
    }


_NULLS: Final = _named(NOTHING)


class Chunks:
    """The frames of one choice of a stream, but for the text in them; made by `chunks_for`.

    Counts of tokens are those that the choice has produced so far, the present chunk included; they are written only
    where the client asked for `continuous_usage_stats`.
    """

    __slots__ = ("_before", "_continuous", "_fingerprint", "_prompt_tokens", "_work", "head", "prefix")

    # What a subclass fills in: the chunk's `object`, and the pieces of a choice around its text.
    _object: bytes
    _before_text: bytes
    _after_text: bytes
    _finished: bytes
    _usage_tail: bytes
    tail: bytes
    """The same for all, so that it is near when a token comes."""

    def __init_subclass__(cls) -> None:
        cls.tail = cls._after_text % _NULLS + b'],"kv_transfer_params":null}\n\n'

    def __init__(self, work: Work, prompt: Prompt, index: int, created: int, fingerprint: str | None) -> None:
        self._work = work
        self._continuous = work.continuous_usage
        self._prompt_tokens = len(prompt.token_ids)
        self._fingerprint = b"" if fingerprint is None else b',"system_fingerprint":' + _encode(fingerprint)
        self._before = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":[' % (
            _encode(work.id),
            self._object,
            created,
            _encode(work.model),
        )
        self.prefix = escaped(prompt.prefix) if prompt.prefix else b""
        """What goes before the text of the first chunk of a completion; the opening of a chat has it already."""
        self.head: bytes = b'%b{"index":%d%b' % (self._before, index, self._before_text)
        """A chunk of text without usage is `head + fragment + tail`."""

    def opening(self) -> bytes:
        """What precedes the chunk of the first token."""
        return b""

    def token(self, fragment: bytes, completion_tokens: int, told: Told = NOTHING) -> bytes:
        """A chunk of text that does not end the answer."""
        if not self._continuous and told is NOTHING:
            return self.head + fragment + self.tail
        usage, after = self._running_usage(completion_tokens), self._after_text % _named(told)
        return b'%b%b%b]%b,"kv_transfer_params":null}\n\n' % (self.head, fragment, after, usage)

    def finish(
        self,
        fragment: bytes,
        finish_reason: str,
        stop_reason: int | str | None,
        completion_tokens: int,
        told: Told = NOTHING,
        kv_transfer_params: bytes = b"null",
    ) -> bytes:
        """The chunk that ends the answer, with the last of its text; the prompt alone where no answer was wanted."""
        if self._work.prompt_only:
            fragment = self.prefix
        return b'%b%b%b]%b%b,"kv_transfer_params":%b}\n\n' % (
            self.head,
            fragment,
            self._finished
            % {**_named(told), b"finish_reason": _encode(finish_reason), b"stop_reason": _encode(stop_reason)},
            self._running_usage(completion_tokens),
            # The fingerprint stands in the last chunk of a stream, and with usage that is the usage's own.
            b"" if self._work.include_usage else self._fingerprint,
            kv_transfer_params,
        )

    def usage(self, usage: Usage, times: Times | None = None) -> bytes:
        """The chunk behind the last answer where `include_usage` was asked for; any choice's chunks can write it."""
        metrics = b""
        if times is not None:
            metrics = b',"metrics":' + _encode({name: time for name, time in times.items() if time is not None})
        return b'%b],"usage":%b%b%b}\n\n' % (self._before, _last_usage(usage), self._fingerprint, metrics)

    def _running_usage(self, completion_tokens: int) -> bytes:
        if not self._continuous:
            return b""
        return b',"usage":' + _usage(Usage(self._prompt_tokens, completion_tokens), self._usage_tail)


class ChatChunks(Chunks):
    """The frames of one choice of a streamed chat."""

    __slots__ = ("_echo", "_prompt", "_role")

    _object = b"chat.completion.chunk"
    _before_text = b',"delta":{"content":"'
    _after_text = b'"},"logprobs":%(logprobs)b,"finish_reason":null,"token_ids":%(token_ids)b}'
    _finished = (
        b'"},"logprobs":%(logprobs)b,"finish_reason":%(finish_reason)b,"stop_reason":%(stop_reason)b,'
        b'"token_ids":%(token_ids)b,"weight_versions":null}'
    )
    _usage_tail = b',"completion_tokens_details":null'

    def __init__(self, work: Work, prompt: Prompt, index: int, created: int, fingerprint: str | None) -> None:
        super().__init__(work, prompt, index, created, fingerprint)
        self._role = b'%b{"index":%d,"delta":{"role":%b,"content":""},"logprobs":null,"finish_reason":null}]%b' % (
            self._before,
            index,
            _encode(work.role),
            self._running_usage(0),
        )
        self._prompt = _chat_prompt(work, prompt)
        self._echo, self.prefix = self.prefix, b""

    def opening(self) -> bytes:
        """The role, and with `echo: true` the message that the answer continues, each as a chunk."""
        role = b'%b,"prompt_token_ids":%b,"prompt_text":%b}\n\n' % (self._role, *self._prompt)
        if not self._echo:
            return role
        usage = self._running_usage(0)
        return b'%b%b%b"},"logprobs":null,"finish_reason":null}]%b}\n\n' % (role, self.head, self._echo, usage)


class CompletionChunks(Chunks):
    """The frames of one choice of a streamed completion."""

    __slots__ = ()

    _object = b"text_completion"
    _before_text = b',"text":"'
    _after_text = (
        b'","logprobs":%(logprobs)b,"finish_reason":null,"stop_reason":null,"prompt_token_ids":%(prompt_token_ids)b,'
        b'"token_ids":%(token_ids)b,"weight_versions":null}'
    )
    _finished = (
        b'","logprobs":%(logprobs)b,"finish_reason":%(finish_reason)b,"stop_reason":%(stop_reason)b,'
        b'"prompt_token_ids":%(prompt_token_ids)b,"token_ids":%(token_ids)b,"weight_versions":null}'
    )
    _usage_tail = b""


def chunks_for(work: Work, prompt: Prompt, index: int, created: int, fingerprint: str | None) -> Chunks:
    """The frames of choice `index` of a streamed request; `created` is in whole seconds since the epoch."""
    kind = ChatChunks if work.kind is Kind.CHAT else CompletionChunks
    return kind(work, prompt, index, created, fingerprint)


def body_of(
    work: Work,
    choices: Sequence[Choice],
    usage: Usage,
    created: int,
    fingerprint: str | None,
    times: Times | None = None,
) -> bytes:
    """The body of a request that is not streamed; `created` is in whole seconds since the epoch."""
    body = _chat_body if work.kind is Kind.CHAT else _completion_body
    return body(work, choices, usage, created, fingerprint, times)
