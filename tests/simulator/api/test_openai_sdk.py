"""The unmodified openai package against a running server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from .conftest import Running, Start


@pytest.fixture
async def client(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_models(client: openai.AsyncOpenAI) -> None:
    """The list has both names."""
    assert [model.id async for model in client.models.list()] == ["one", "two"]


async def test_a_chat(client: openai.AsyncOpenAI) -> None:
    """The answer, its reason and the usage are where the package looks for them."""
    answer = await client.chat.completions.create(model="one", messages=[{"role": "user", "content": "Hello there"}])
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_streamed_chat(client: openai.AsyncOpenAI) -> None:
    """Chunks add up to the answer and the last one holds the usage."""
    stream = await client.chat.completions.create(
        model="one",
        messages=[{"role": "user", "content": "Hello there"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello there"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(chunks) - 2


async def test_completions(client: openai.AsyncOpenAI) -> None:
    """Whole and streamed completions say the same."""
    whole = await client.completions.create(model="two", prompt="Hello there", max_tokens=20)
    stream = await client.completions.create(model="two", prompt="Hello there", max_tokens=20, stream=True)
    assert whole.choices[0].text == "".join([chunk.choices[0].text async for chunk in stream]) == "Hello there"
    assert whole.model == "one"


async def test_errors_are_the_packages_own(client: openai.AsyncOpenAI) -> None:
    """Statuses and bodies map to its exception classes, with message and param."""
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="three", messages=[{"role": "user", "content": "x"}])
    assert missing.value.param == "model"
    assert missing.value.type == "NotFoundError"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.completions.create(model="one", prompt="x", temperature=7)
    assert wrong.value.body == {
        "message": "temperature must be in [0, 2], got 7.0. (parameter=temperature, value=7.0)",
        "type": "BadRequestError",
        "param": "temperature",
        "code": 400,
    }
    with pytest.raises(openai.APIError, match="out of vocabulary"):
        async for _ in await client.completions.create(model="one", prompt=[10**9], stream=True):
            pass


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("RateLimit", openai.RateLimitError),
        ("InvalidAPIKey", openai.AuthenticationError),
        ("ContextLength", openai.BadRequestError),
        ("ServerError", openai.InternalServerError),
        ("InvalidRequest", openai.BadRequestError),
        ("ModelNotFound", openai.NotFoundError),
    ],
)
async def test_injected_failures_are_the_packages_own(start: Start, kind: str, error: type[openai.APIError]) -> None:
    """Each type of failure raises what the same failure of a real service raises."""
    running = await start(failures=[{"type": kind, "probability": "1"}])
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as client:
        with pytest.raises(error):
            await client.completions.create(model="one", prompt="x")
