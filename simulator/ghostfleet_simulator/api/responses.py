"""Bodies and stream chunks as bytes, field for field as vLLM 0.33 writes them.

What does not change within a request is encoded once; a token then costs one concatenation. Fragments of text are given
as the inside of a JSON string (`escaped`). `api.schema` declares the same bodies, and tests hold the two together.
Source: vLLM 0.33 entrypoints/openai/{chat_completion,completion}/serving.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from ghostfleet_simulator.runtime.work import Kind, Prompt, Work

DONE: Final = b"data: [DONE]\n\n"
"""The frame that ends every stream."""

_encode: Final = msgspec.json.Encoder().encode


def escaped(text: str) -> bytes:
    """A text as the inside of a JSON string, without its quotes."""
    return _encode(text)[1:-1]


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer."""

    index: int
    text: str
    finish_reason: str
    stop_reason: int | str | None = None


class Usage(NamedTuple):
    """Tokens of a request, all its prompts and answers together."""

    prompt_tokens: int
    completion_tokens: int


def _usage(usage: Usage, tail: bytes) -> bytes:
    prompt, completion = usage
    return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
        prompt,
        prompt + completion,
        completion,
        tail,
    )


_WHOLE_USAGE: Final = b',"prompt_tokens_details":null,"completion_tokens_details":null'


def _chat_body(work: Work, choices: Iterable[Choice], usage: Usage, created: int, fingerprint: str | None) -> bytes:
    role = _encode(work.role)
    answers = b",".join(
        b'{"index":%d,"message":{"role":%b,"content":%b,"refusal":null,"annotations":null,"audio":null,'
        b'"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":%b,"stop_reason":%b,"token_ids":null,'
        b'"routed_experts":null,"weight_versions":null}'
        % (choice.index, role, _encode(choice.text), _encode(choice.finish_reason), _encode(choice.stop_reason))
        for choice in choices
    )
    return (
        b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[%b],"service_tier":null,'
        b'"system_fingerprint":%b,"usage":%b,"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,'
        b'"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
        % (_encode(work.id), created, _encode(work.model), answers, _encode(fingerprint), _usage(usage, _WHOLE_USAGE))
    )


def _completion_body(
    work: Work, choices: Iterable[Choice], usage: Usage, created: int, fingerprint: str | None
) -> bytes:
    answers = b",".join(
        b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":%b,"stop_reason":%b,"token_ids":null,'
        b'"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null,"weight_versions":null}'
        % (choice.index, _encode(choice.text), _encode(choice.finish_reason), _encode(choice.stop_reason))
        for choice in choices
    )
    return (
        b'{"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":[%b],"service_tier":null,'
        b'"system_fingerprint":%b,"usage":%b,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
        % (_encode(work.id), created, _encode(work.model), answers, _encode(fingerprint), _usage(usage, _WHOLE_USAGE))
    )


class Chunks:
    """The frames of one choice of a stream, but for the text in them; made by `chunks_for`.

    Counts of tokens are those that the choice has produced so far, the present chunk included; they are written only
    where the client asked for `continuous_usage_stats`.
    """

    __slots__ = ("_before", "_continuous", "_fingerprint", "_prompt_tokens", "_work", "head", "prefix", "tail")

    # What a subclass fills in: the chunk's `object`, and the pieces of a choice around its text.
    _object: bytes
    _before_text: bytes
    _after_text: bytes
    _finished: bytes
    _usage_tail: bytes

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
        self.tail: bytes = self._after_text + b'],"kv_transfer_params":null}\n\n'

    def opening(self) -> bytes:
        """What precedes the chunk of the first token."""
        return b""

    def token(self, fragment: bytes, completion_tokens: int) -> bytes:
        """A chunk of text that does not end the answer."""
        if not self._continuous:
            return self.head + fragment + self.tail
        usage = self._running_usage(completion_tokens)
        return b'%b%b%b]%b,"kv_transfer_params":null}\n\n' % (self.head, fragment, self._after_text, usage)

    def finish(
        self, fragment: bytes, finish_reason: str, stop_reason: int | str | None, completion_tokens: int
    ) -> bytes:
        """The chunk that ends the answer, with the last of its text; the prompt alone where no answer was wanted."""
        if self._work.prompt_only:
            fragment = self.prefix
        return b'%b%b%b]%b%b,"kv_transfer_params":null}\n\n' % (
            self.head,
            fragment,
            self._finished % (_encode(finish_reason), _encode(stop_reason)),
            self._running_usage(completion_tokens),
            # The fingerprint stands in the last chunk of a stream, and with usage that is the usage's own.
            b"" if self._work.include_usage else self._fingerprint,
        )

    def usage(self, usage: Usage) -> bytes:
        """The chunk behind the last answer where `include_usage` was asked for; any choice's chunks can write it."""
        return b'%b],"usage":%b%b}\n\n' % (self._before, _usage(usage, b""), self._fingerprint)

    def _running_usage(self, completion_tokens: int) -> bytes:
        if not self._continuous:
            return b""
        return b',"usage":' + _usage(Usage(self._prompt_tokens, completion_tokens), self._usage_tail)


class ChatChunks(Chunks):
    """The frames of one choice of a streamed chat."""

    __slots__ = ("_echo", "_role")

    _object = b"chat.completion.chunk"
    _before_text = b',"delta":{"content":"'
    _after_text = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}'
    _finished = b'"},"logprobs":null,"finish_reason":%b,"stop_reason":%b,"token_ids":null,"weight_versions":null}'
    _usage_tail = b',"completion_tokens_details":null'

    def __init__(self, work: Work, prompt: Prompt, index: int, created: int, fingerprint: str | None) -> None:
        super().__init__(work, prompt, index, created, fingerprint)
        self._role = b'%b{"index":%d,"delta":{"role":%b,"content":""},"logprobs":null,"finish_reason":null}]%b' % (
            self._before,
            index,
            _encode(work.role),
            self._running_usage(0),
        )
        self._echo, self.prefix = self.prefix, b""

    def opening(self) -> bytes:
        """The role, and with `echo: true` the message that the answer continues, each as a chunk."""
        role = self._role + b',"prompt_token_ids":null,"prompt_text":null}\n\n'
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
        b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null,'
        b'"weight_versions":null}'
    )
    _finished = (
        b'","logprobs":null,"finish_reason":%b,"stop_reason":%b,"prompt_token_ids":null,"token_ids":null,'
        b'"weight_versions":null}'
    )
    _usage_tail = b""


def chunks_for(work: Work, prompt: Prompt, index: int, created: int, fingerprint: str | None) -> Chunks:
    """The frames of choice `index` of a streamed request; `created` is in whole seconds since the epoch."""
    kind = ChatChunks if work.kind is Kind.CHAT else CompletionChunks
    return kind(work, prompt, index, created, fingerprint)


def body_of(work: Work, choices: Iterable[Choice], usage: Usage, created: int, fingerprint: str | None) -> bytes:
    """The body of a request that is not streamed; `created` is in whole seconds since the epoch."""
    body = _chat_body if work.kind is Kind.CHAT else _completion_body
    return body(work, choices, usage, created, fingerprint)
