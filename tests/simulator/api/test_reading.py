"""Where a body is read makes no difference to its answer, and what was started for large ones goes away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from tests.served import children_of

from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.judging import Judged, judged_completion, to_abort, tokenized
from ghostfleet_simulator.api.reading import BodyReader
from ghostfleet_simulator.config import ModelSettings, ServerConfig
from ghostfleet_simulator.runtime.work import Work
from ghostfleet_simulator.text.tokenizer import Tokenizer

from .conftest import Running, Start

HEADERS = {"content-type": "application/json", "x-request-id": "abc"}
PLACES = (0, 20_000, 300_000)
"""Bytes of white space behind a body, that make it one for the loop, a thread, the process."""


def children() -> set[int]:
    return children_of(os.getpid())


@pytest.fixture
def facts(tokenizer: Tokenizer) -> Facts:
    return Facts.of(ServerConfig(model=ModelSettings(name="m", max_model_len=512)), tokenizer)


@pytest.fixture
def reader(facts: Facts) -> Iterator[BodyReader]:
    made = BodyReader(ModelSettings(name="m"), facts, idle_s=0.2)
    yield made
    made.close()


async def gone(process: int) -> None:
    async with asyncio.timeout(10):
        while process in children():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"Hello there","max_tokens":3,"stop":["a"],"logprobs":2,"seed":7}',
        b'{"prompt":[[1,2,3],[4]],"n":2,"stream":true,"stream_options":{"include_usage":true}}',
        b'{"prompt":[99999999999999999999]}',
        b'{"prompt":[5],"max_tokens":1000}',
    ],
)
async def test_the_work_is_the_same_wherever_a_body_is_read(reader: BodyReader, body: bytes) -> None:
    """Tokens, parameters, and what is wrong with them."""
    outcomes = [await reader.read(judged_completion, body + b" " * more, HEADERS) for more in PLACES]
    shown = [(told.model, told.n, told.work if isinstance(told.work, Work) else told.work.body()) for told in outcomes]
    rejections = [told.work.rejection for told in outcomes if isinstance(told.work, Work)]
    if any(rejections):
        assert len({str(rejection) for rejection in rejections}) == 1
    else:
        assert shown[0] == shown[1] == shown[2]


async def test_errors_are_the_same_wherever_a_body_is_read(reader: BodyReader) -> None:
    """vLLM's, raised as they are by the function itself."""
    told = []
    for more in PLACES:
        with pytest.raises(ApiError) as caught:
            await reader.read(judged_completion, b'{"prompt":{}}' + b" " * more, HEADERS)
        told.append(caught.value.body())
    assert told[0] == told[1] == told[2]


async def test_many_values_are_read_apart_however_few_bytes_they_are(reader: BodyReader) -> None:
    before = children()
    judged = await reader.read(judged_completion, b'{"prompt":[' + b"7," * 20_000 + b"7]}", HEADERS)
    assert isinstance(judged, Judged)
    assert isinstance(judged.work, ApiError)
    assert len(children() - before) == 1


async def test_the_process_ends_when_it_is_idle_and_comes_back(reader: BodyReader) -> None:
    """One process for any number of bodies at a time, and none some time after the last."""
    before = children()
    body = b'{"prompt":"' + b"word " * 60_000 + b'"}'
    for _ in range(2):
        answers = await asyncio.gather(*(reader.read(tokenized, body, HEADERS) for _ in range(3)))
        assert answers[0] == answers[1] == answers[2]
        assert b'"count":60001' in answers[0]
        [process] = children() - before
        await gone(process)


async def test_a_process_that_is_killed_costs_one_answer(start: Start) -> None:
    """500 for the body it was reading, and the next one is read by another."""
    running: Running = await start()
    before = children()
    large = {"prompt": "word " * 1_500_000}
    asked = asyncio.create_task(running.post("/tokenize", large))
    async with asyncio.timeout(20):
        while not children() - before:
            await asyncio.sleep(0.02)
    [process] = children() - before
    os.kill(process, signal.SIGKILL)
    assert (await asked).status_code == 500
    assert (await running.post("/tokenize", {"prompt": "word " * 100_000})).json()["count"] == 100_001
    assert children() - before != {process}


async def test_nothing_is_left_of_a_server_that_was_closed(facts: Facts) -> None:
    before = children()
    reader = BodyReader(ModelSettings(name="m"), facts)
    await reader.read(tokenized, b'{"prompt":"a"}' + b" " * 300_000, HEADERS)
    [process] = children() - before
    reader.close()
    await gone(process)


def test_of_ids_to_abort_only_those_that_are_known_come_back(facts: Facts) -> None:
    body = b'{"request_ids":["a","b","a",5,null,"c"]}'
    assert to_abort(frozenset({"a", "c", "d"}), facts, body, HEADERS) == ["a", "c"]
    assert to_abort(frozenset({"a"}), facts, b'{"request_ids":"a"}', HEADERS) == ["a"]
    assert to_abort(frozenset({"a"}), facts, b'{"request_ids":7}', HEADERS) == []
