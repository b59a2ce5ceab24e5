"""An unmodified LangChain chat model: invoke, batch, stream and the errors it raises."""

from __future__ import annotations

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from tests.served import Served

TOKENS = 24


@pytest.fixture
def model(served: Served) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{served.url}/v1",
        api_key=SecretStr("any"),
        model="m",
        max_retries=0,
        max_completion_tokens=TOKENS,
        extra_body={"ignore_eos": True},
        stream_usage=True,
    )


def test_an_answer(model: ChatOpenAI) -> None:
    """Text, finish reason, names and exact token counts are where LangChain puts them."""
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage("Tell me a story")])
    assert isinstance(answer, AIMessage)
    assert answer.text
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["model_name"] == "m"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == TOKENS
    assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + TOKENS


def test_a_batch(model: ChatOpenAI) -> None:
    """Twenty conversations at once: none fails, none is short."""
    answers = model.batch([f"Question {number}" for number in range(20)], config={"max_concurrency": 8})
    counts = [answer.usage_metadata["output_tokens"] for answer in answers if answer.usage_metadata]
    assert counts == [TOKENS] * 20


def test_a_stream(model: ChatOpenAI) -> None:
    """Chunks come one by one and add up to a message with its usage."""
    chunks = list(model.stream("Tell me a story", seed=3))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(chunks) > TOKENS / 2
    assert whole.text == model.invoke("Tell me a story", seed=3).text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == TOKENS


async def test_an_asynchronous_stream(model: ChatOpenAI) -> None:
    """The same over asyncio."""
    text = "".join([chunk.text async for chunk in model.astream("Tell me a story", seed=3)])
    assert text == model.invoke("Tell me a story", seed=3).text


def test_an_error(model: ChatOpenAI, served: Served) -> None:
    """A refusal comes through as the openai package's own."""
    wrong = model.model_copy(update={"model_name": "other"})
    with pytest.raises(openai.NotFoundError, match="The model `other` does not exist"):
        wrong.invoke("x")
    assert served.process.poll() is None
