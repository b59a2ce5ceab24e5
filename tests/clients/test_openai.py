"""The unmodified openai package under load: no request fails, and each answer has exactly the tokens asked for."""

from __future__ import annotations

import asyncio
import itertools

import openai
import pytest
from tests.served import Served

REQUESTS, AT_ONCE = 120, 16
EXACT = {"ignore_eos": True}


async def chat(client: openai.AsyncOpenAI, number: int, tokens: int) -> tuple[int, int]:
    """Tokens of the answer by its usage, and by the server's own tokenizer read off the text."""
    answer = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": f"Question {number}"}],
        max_completion_tokens=tokens,
        extra_body=EXACT,
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    return answer.usage.completion_tokens, await counted(client, answer.choices[0].message.content or "")


async def streamed_chat(client: openai.AsyncOpenAI, number: int, tokens: int) -> tuple[int, int]:
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": f"Question {number}"}],
        max_completion_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=EXACT,
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert usage is not None
    return usage.completion_tokens, await counted(client, text)


async def completion(client: openai.AsyncOpenAI, number: int, tokens: int) -> tuple[int, int]:
    answer = await client.completions.create(
        model="m", prompt=f"Question {number}", max_tokens=tokens, extra_body=EXACT
    )
    assert answer.usage is not None
    return answer.usage.completion_tokens, await counted(client, answer.choices[0].text)


async def streamed_completion(client: openai.AsyncOpenAI, number: int, tokens: int) -> tuple[int, int]:
    stream = await client.completions.create(
        model="m",
        prompt=[number, number + 1],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=EXACT,
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(choice.text for choice in chunk.choices)
        usage = chunk.usage or usage
    assert usage is not None
    assert usage.prompt_tokens == 2
    return usage.completion_tokens, await counted(client, text)


async def counted(client: openai.AsyncOpenAI, text: str) -> int:
    """How many tokens a client counts in a text."""
    body = {"model": "m", "prompt": text, "add_special_tokens": False}
    answer = await client.post("/../tokenize", body=body, cast_to=dict[str, object])
    count = answer["count"]
    assert isinstance(count, int)
    return count


async def test_a_mixed_load(served: Served) -> None:
    """Both endpoints, streamed and whole, 16 at once; what a client counts in the text is what it asked for, too."""
    gate = asyncio.Semaphore(AT_ONCE)
    kinds = itertools.cycle((chat, streamed_chat, completion, streamed_completion))
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:

        async def one(number: int) -> None:
            tokens = 1 + 7 * number % 97
            async with gate:
                by_usage, by_text = await kind_of[number](client, number, tokens)
            assert (by_usage, by_text) == (tokens, tokens)

        kind_of = {number: next(kinds) for number in range(REQUESTS)}
        await asyncio.gather(*(one(number) for number in range(REQUESTS)))
    served.until(running=0, waiting=0)
    assert served.state()["requests"]["length"] == REQUESTS


async def test_several_answers_at_once(served: Served) -> None:
    """`n` answers, each of exactly the tokens asked for, in the SDK's own form."""
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        answer = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], n=3, max_completion_tokens=20, extra_body=EXACT
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


async def test_a_timeout_is_the_clients_own(served: Served) -> None:
    """A client that gives up raises its own error, and the server drops the request."""
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=0.3) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.completions.create(model="m", prompt="x", max_tokens=5000, extra_body=EXACT)
    served.until(running=0, waiting=0)
