"""Images and the like in requests, and servers that only encode them: what disaggregated encoding needs."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest
from tests.simulator.api.conftest import Running, Start

TEXT = {"type": "text", "text": "What is this?"}
CAT = {"type": "image_url", "image_url": {"url": "http://pictures/cat.png"}}
DOG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SONG = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TOKENS = {"token_ids": [1, 9, 9, 9], "sampling_params": {"max_tokens": 1}}


def features(*hashes: str) -> dict[str, Any]:
    where = [{"offset": 1, "length": 3} for _ in hashes]
    return {"mm_hashes": {"image": list(hashes)}, "mm_placeholders": {"image": where}}


async def chat(running: Running, *content: Any, **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": list(content)}], "max_tokens": 1, "stream": False} | more
    answer = await running.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def encoder(start: Start) -> Running:
    return await start(model={"name": "one", "encoderOnly": True})


async def test_an_encoder_tells_where_each_item_is(encoder: Running) -> None:
    """The request of llm-d's sidecar: one item, one token. The same item has the same hash anywhere."""
    told = await chat(encoder, CAT)
    [(hashed, where)] = told["ec_transfer_params"].items()
    assert len(bytes.fromhex(hashed)) == 32
    assert where.keys() == {"peer_host", "peer_port", "size_bytes", "nixl_agent_metadata_b64"}
    assert b64decode(where["nixl_agent_metadata_b64"])
    [choice] = told["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("!", "length")
    every = (await chat(encoder, TEXT, DOG, CAT, SONG, CAT))["ec_transfer_params"]
    assert len(every) == 3
    assert every[hashed] == where
    assert list((await chat(encoder, CAT | {"uuid": "mine"}))["ec_transfer_params"]) != [hashed]


async def test_it_says_one_thing_as_often_as_it_is_asked_to(encoder: Running) -> None:
    assert (await chat(encoder, CAT, max_tokens=4))["choices"][0]["message"]["content"] == "!!!!"
    assert (await chat(encoder, CAT, max_tokens=None))["usage"]["completion_tokens"] == 1


async def test_a_text_has_nothing_to_fetch(encoder: Running) -> None:
    assert (await chat(encoder, TEXT))["ec_transfer_params"] is None
    answer = await encoder.post("/inference/v1/generate", TOKENS)
    assert answer.json()["ec_transfer_params"] is None


async def test_tokens_come_with_hashes_of_their_own(encoder: Running) -> None:
    """`features`, as rendering gives them and llm-d's tests send them."""
    answer = await encoder.post("/inference/v1/generate", TOKENS | {"features": features("abc", "def", "abc")})
    assert list(answer.json()["ec_transfer_params"]) == ["abc", "def"]


async def test_others_take_items_and_what_the_encoder_told_of_them(start: Start) -> None:
    """A prompt is longer by a marker, and its blocks are found again by prompts with the same item only."""
    running = await start(
        model={"name": "one", "multimodal": True},
        api={"enablePromptTokensDetails": True},
        kvCache={"blockSize": 4},
    )
    handles = {"abc": {"peer_host": "x", "peer_port": 1}}
    told = await chat(running, CAT, TEXT, ec_transfer_params=handles)
    assert told["ec_transfer_params"] is None
    text = await chat(running, TEXT)
    assert told["usage"]["prompt_tokens"] > text["usage"]["prompt_tokens"]

    async def cached(*content: Any) -> int:
        return int((await chat(running, *content))["usage"]["prompt_tokens_details"]["cached_tokens"])

    again, other = await cached(CAT, TEXT), await cached(DOG, TEXT)
    assert again > other
    answer = await running.post("/inference/v1/generate", TOKENS | {"features": features("abc")})
    assert (answer.status_code, answer.json()["ec_transfer_params"]) == (200, None)
