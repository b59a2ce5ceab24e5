"""Pre-encoded bodies and chunks are, byte for byte, what vLLM's declared models serialise to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from ghostfleet_simulator.api import schema
from ghostfleet_simulator.api.responses import Choice, Chunks, Usage, body_of, chunks_for, escaped
from ghostfleet_simulator.runtime.work import Kind, Prompt, Sampling, Work

CREATED, PRINT = 1_700_000_000, "vllm-0.33.0-0a1b2c3d"
NASTY = 'é"\\\n\t\x01\u2028 <b> 😀 /'
IDENTITY = {"id": "req-é", "created": CREATED, "model": 'org/"m"'}


def work(kind: Kind, prefix: str = "", **fields: Any) -> Work:
    prompt = Prompt(id="req", token_ids=[1, 2, 3], sampling=Sampling(max_tokens=9), prefix=prefix)
    return Work(kind=kind, id="req-é", model='org/"m"', prompts=(prompt,), **fields)


def chunks(kind: Kind, index: int = 0, prefix: str = "", fingerprint: str | None = PRINT, **fields: Any) -> Chunks:
    asked = work(kind, prefix, stream=True, **fields)
    return chunks_for(asked, asked.prompts[0], index, CREATED, fingerprint)


def frame(model: BaseModel, *, last: bool = False) -> bytes:
    """The frame vLLM would send: what was set, without nulls in the usage chunk at the end."""
    return f"data: {model.model_dump_json(exclude_unset=True, exclude_none=last)}\n\n".encode()


def chat_chunk(**fields: Any) -> schema.ChatCompletionStreamResponse:
    return schema.ChatCompletionStreamResponse(object="chat.completion.chunk", **IDENTITY, **fields)


def chat_choice(**fields: Any) -> list[schema.ChatCompletionResponseStreamChoice]:
    return [schema.ChatCompletionResponseStreamChoice(logprobs=None, **fields)]


def text_chunk(**fields: Any) -> schema.CompletionStreamResponse:
    return schema.CompletionStreamResponse(object="text_completion", **IDENTITY, **fields)


def text_choice(**fields: Any) -> list[schema.CompletionResponseStreamChoice]:
    return [
        schema.CompletionResponseStreamChoice(
            logprobs=None, prompt_token_ids=None, token_ids=None, weight_versions=None, **fields
        )
    ]


def delta(**fields: Any) -> schema.DeltaMessage:
    return schema.DeltaMessage(**fields)


CHAT_USAGE = {"prompt_tokens": 3, "completion_tokens_details": None}


@pytest.mark.parametrize("text", ["", "plain", NASTY])
def test_fragments_are_the_inside_of_json_strings(text: str) -> None:
    """Nothing but what JSON demands is escaped, and it reads back as it was."""
    assert json.loads(b'"' + escaped(text) + b'"') == text


def test_a_chat_stream_chunk_by_chunk() -> None:
    """Role, text, end: which keys each chunk has follows vLLM's serving code; the fingerprint stands in the last."""
    made = chunks(Kind.CHAT, index=2)
    assert made.opening() == frame(
        chat_chunk(
            choices=chat_choice(index=2, delta=delta(role="assistant", content=""), finish_reason=None),
            prompt_token_ids=None,
            prompt_text=None,
        )
    )
    token = frame(
        chat_chunk(
            choices=chat_choice(index=2, delta=delta(content=NASTY), finish_reason=None, token_ids=None),
            kv_transfer_params=None,
        )
    )
    assert json.loads(made.token(escaped(NASTY), 1)[6:]) == json.loads(token[6:])
    assert made.token(b"abc", 1) == token.replace(json.dumps(NASTY, ensure_ascii=False).encode(), b'"abc"')
    assert made.head + b"abc" + made.tail == made.token(b"abc", 1)
    assert made.finish(b"x", "stop", None, 2) == frame(
        chat_chunk(
            choices=chat_choice(
                index=2,
                delta=delta(content="x"),
                finish_reason="stop",
                stop_reason=None,
                token_ids=None,
                weight_versions=None,
            ),
            system_fingerprint=PRINT,
            kv_transfer_params=None,
        )
    )


def test_a_chat_stream_with_usage_at_its_end() -> None:
    """The fingerprint moves to the usage chunk, which has no nulls; other chunks have no usage at all."""
    made = chunks(Kind.CHAT, include_usage=True)
    assert b"usage" not in made.opening() + made.token(b"x", 1)
    finish = made.finish(b"", "stop", 13, 2)
    assert b"fingerprint" not in finish
    assert json.loads(finish[6:])["choices"][0]["stop_reason"] == 13
    usage = schema.UsageInfo(prompt_tokens=3, completion_tokens=5, total_tokens=8)
    assert made.usage(Usage(3, 5)) == frame(
        chat_chunk(choices=[], usage=usage, system_fingerprint=PRINT, metrics=None), last=True
    )


def test_a_chat_stream_with_usage_all_along() -> None:
    """Every chunk from the role on has the choice's own usage, with the null that vLLM sets."""
    made = chunks(Kind.CHAT, include_usage=True, continuous_usage=True)
    assert made.opening() == frame(
        chat_chunk(
            choices=chat_choice(index=0, delta=delta(role="assistant", content=""), finish_reason=None),
            usage=schema.UsageInfo(completion_tokens=0, total_tokens=3, **CHAT_USAGE),
            prompt_token_ids=None,
            prompt_text=None,
        )
    )
    assert made.token(b"x", 4) == frame(
        chat_chunk(
            choices=chat_choice(index=0, delta=delta(content="x"), finish_reason=None, token_ids=None),
            usage=schema.UsageInfo(completion_tokens=4, total_tokens=7, **CHAT_USAGE),
            kv_transfer_params=None,
        )
    )
    assert made.finish(b"x", "length", None, 5) == frame(
        chat_chunk(
            choices=chat_choice(
                index=0,
                delta=delta(content="x"),
                finish_reason="length",
                stop_reason=None,
                token_ids=None,
                weight_versions=None,
            ),
            usage=schema.UsageInfo(completion_tokens=5, total_tokens=8, **CHAT_USAGE),
            kv_transfer_params=None,
        )
    )


def test_a_chat_that_continues_a_message_repeats_it_first() -> None:
    """`echo` adds one chunk behind the role, without kv_transfer_params; nothing is put before the text."""
    made = chunks(Kind.CHAT, prefix='Well, "so"', role="user")
    role, echo = made.opening().split(b"\n\n", 1)
    assert json.loads(role[6:])["choices"][0]["delta"] == {"role": "user", "content": ""}
    assert echo == frame(
        chat_chunk(choices=chat_choice(index=0, delta=delta(content='Well, "so"'), finish_reason=None))
    )
    assert made.prefix == b""


def test_a_completion_stream_chunk_by_chunk() -> None:
    """No opening; every chunk has all fields of a choice."""
    made = chunks(Kind.COMPLETION, index=3)
    assert made.opening() == b""
    assert made.token(b"abc", 1) == frame(
        text_chunk(
            choices=text_choice(index=3, text="abc", finish_reason=None, stop_reason=None), kv_transfer_params=None
        )
    )
    assert made.finish(b"abc", "stop", "END", 2) == frame(
        text_chunk(
            choices=text_choice(index=3, text="abc", finish_reason="stop", stop_reason="END"),
            system_fingerprint=PRINT,
            kv_transfer_params=None,
        )
    )
    assert chunks(Kind.COMPLETION, prefix='a"b').prefix == b'a\\"b'


def test_a_completion_stream_with_usage() -> None:
    """Usage all along lacks the details that a chat's has; at the end it is as in a chat."""
    made = chunks(Kind.COMPLETION, include_usage=True, continuous_usage=True)
    assert made.token(b"x", 4) == frame(
        text_chunk(
            choices=text_choice(index=0, text="x", finish_reason=None, stop_reason=None),
            usage=schema.UsageInfo(prompt_tokens=3, completion_tokens=4, total_tokens=7),
            kv_transfer_params=None,
        )
    )
    usage = schema.UsageInfo(prompt_tokens=3, completion_tokens=5, total_tokens=8)
    assert made.usage(Usage(3, 5)) == frame(
        text_chunk(choices=[], usage=usage, system_fingerprint=PRINT, metrics=None), last=True
    )


def test_without_a_fingerprint_the_key_is_missing_from_streams() -> None:
    """vLLM sets the field only where there is a fingerprint."""
    assert b"fingerprint" not in chunks(Kind.CHAT, fingerprint=None).finish(b"", "stop", None, 1)


def text_of(choice: Choice) -> str:
    text: str = json.loads(b'"%b"' % choice.text)
    return text


@pytest.mark.parametrize("fingerprint", [PRINT, None])
def test_a_whole_chat(fingerprint: str | None) -> None:
    """Not streamed, every field is there, null or not, in the order of the model."""
    choices = [Choice(0, b"hello", "stop"), Choice(1, b"", "length"), Choice(2, escaped("é"), "stop", "END")]
    expected = schema.ChatCompletionResponse(
        **IDENTITY,
        choices=[
            schema.ChatCompletionResponseChoice(
                index=c.index,
                message=schema.ChatMessage(role="assistant", content=text_of(c)),
                finish_reason=c.finish_reason,
                stop_reason=c.stop_reason,
            )
            for c in choices
        ],
        system_fingerprint=fingerprint,
        usage=schema.UsageInfo(prompt_tokens=3, total_tokens=10, completion_tokens=7),
    )
    assert body_of(work(Kind.CHAT), choices, Usage(3, 7), CREATED, fingerprint).decode() == expected.model_dump_json()


def test_a_whole_completion() -> None:
    """The same for completions; a stop token's id is a number."""
    choices = [Choice(0, b"hello", "stop", 7), Choice(1, escaped(NASTY), "length")]
    expected = schema.CompletionResponse(
        **IDENTITY,
        choices=[
            schema.CompletionResponseChoice(
                index=c.index, text=text_of(c), finish_reason=c.finish_reason, stop_reason=c.stop_reason
            )
            for c in choices
        ],
        system_fingerprint=PRINT,
        usage=schema.UsageInfo(prompt_tokens=3, total_tokens=10, completion_tokens=7),
    )
    body = body_of(work(Kind.COMPLETION), choices, Usage(3, 7), CREATED, PRINT)
    assert json.loads(body) == expected.model_dump()
    assert list(json.loads(body)["choices"][0]) == list(expected.model_dump()["choices"][0])
