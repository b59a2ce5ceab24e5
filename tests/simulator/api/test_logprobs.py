"""Logprobs of chats and completions, whole and streamed: vLLM 0.33's shapes."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest

from .conftest import Running, Start

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
PROMPT = "Plants bend towards the light."


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": PROMPT}], **more}


def frames(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def body(running: Running, path: str, request: dict[str, Any]) -> dict[str, Any]:
    response = await running.post(path, request)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_chat_tells_each_token_with_its_likeliest_rivals(running: Running) -> None:
    answer = await body(running, CHAT, chat(logprobs=True, top_logprobs=3, return_token_ids=True))
    choice = answer["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"] == len(choice["token_ids"])
    said = content[:-1] if choice["finish_reason"] == "stop" else content  # the end of sequence has no text there
    assert "".join(token["token"] for token in said) == choice["message"]["content"]
    for token in content:
        assert list(token) == ["token", "logprob", "bytes", "top_logprobs"]
        assert bytes(token["bytes"]).decode() == token["token"]
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0] == {key: token[key] for key in ("token", "logprob", "bytes")}
        rivals = [rival["logprob"] for rival in token["top_logprobs"][1:]]
        assert rivals == sorted(rivals, reverse=True)
    assert content[-1]["token"].startswith("<|")


async def test_logprobs_without_top_logprobs_have_an_empty_list(running: Running) -> None:
    answer = await body(running, CHAT, chat(logprobs=True, max_tokens=3))
    assert [token["top_logprobs"] for token in answer["choices"][0]["logprobs"]["content"]] == [[], [], []]


@pytest.mark.parametrize("interval", [1, 3])
async def test_a_streamed_chat_tells_the_same_in_its_chunks(running: Running, interval: int) -> None:
    request = chat(logprobs=True, top_logprobs=2, return_token_ids=True)
    whole = (await body(running, CHAT, request))["choices"][0]
    response = await running.post(CHAT, {**request, "stream": True, "stream_interval": interval})
    role, *chunks = frames(response.text)
    assert role["choices"][0]["logprobs"] is None
    choices = [chunk["choices"][0] for chunk in chunks]
    assert (
        list(chain.from_iterable(choice["logprobs"]["content"] for choice in choices)) == whole["logprobs"]["content"]
    )
    assert list(chain.from_iterable(choice["token_ids"] for choice in choices)) == whole["token_ids"]


async def test_a_completion_tells_tokens_offsets_and_one_rival_more(running: Running) -> None:
    answer = await body(running, COMPLETION, {"prompt": PROMPT, "logprobs": 2, "max_tokens": 5})
    choice = answer["choices"][0]
    told = choice["logprobs"]
    assert list(told) == ["text_offset", "token_logprobs", "tokens", "top_logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"] == [sum(map(len, told["tokens"][:index])) for index in range(5)]
    for token, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert top[token] == logprob
        assert 2 <= len(top) <= 3


async def test_zero_logprobs_tell_the_tokens_alone(running: Running) -> None:
    answer = await body(running, COMPLETION, {"prompt": PROMPT, "logprobs": 0, "max_tokens": 2})
    told = answer["choices"][0]["logprobs"]
    assert [list(top) for top in told["top_logprobs"]] == [[token] for token in told["tokens"]]


async def test_an_echo_tells_the_prompt_too_and_nothing_of_its_first_token(running: Running) -> None:
    request = {"prompt": PROMPT, "echo": True, "logprobs": 1, "max_tokens": 4}
    answer = await body(running, COMPLETION, request)
    choice = answer["choices"][0]
    told, prompt_tokens = choice["logprobs"], answer["usage"]["prompt_tokens"]
    assert len(told["tokens"]) == prompt_tokens + 4
    assert "".join(told["tokens"]) == choice["text"]
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    assert None not in told["token_logprobs"][1:]
    assert len(choice["prompt_logprobs"]) == prompt_tokens
    response = await running.post(COMPLETION, {**request, "stream": True})
    chunks = [chunk["choices"][0] for chunk in frames(response.text)]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert list(chain.from_iterable(chunk["logprobs"][name] for chunk in chunks)) == told[name]
    assert len(chunks[0]["prompt_token_ids"]) == prompt_tokens
    assert chunks[1]["prompt_token_ids"] is None


async def test_an_echo_without_generation_tells_the_prompt_alone(running: Running) -> None:
    answer = await body(running, COMPLETION, {"prompt": PROMPT, "echo": True, "logprobs": 0, "max_tokens": 0})
    choice = answer["choices"][0]
    assert choice["text"] == PROMPT
    assert "".join(choice["logprobs"]["tokens"]) == PROMPT
    assert answer["usage"]["completion_tokens"] == 1


async def test_prompt_logprobs_are_keyed_by_token_and_agree_with_an_echo(running: Running) -> None:
    answer = await body(running, COMPLETION, {"prompt": PROMPT, "prompt_logprobs": 2, "max_tokens": 1})
    positions = answer["choices"][0]["prompt_logprobs"]
    ids = (await body(running, "/tokenize", {"prompt": PROMPT}))["tokens"]
    assert positions[0] is None
    for token_id, position in zip(ids[1:], positions[1:], strict=True):
        assert next(iter(position)) == str(token_id)
        assert list(position[str(token_id)]) == ["logprob", "rank", "decoded_token"]
        assert len(position) in (2, 3)
    echo = await body(running, COMPLETION, {"prompt": PROMPT, "echo": True, "logprobs": 0, "max_tokens": 1})
    told = echo["choices"][0]["logprobs"]["token_logprobs"]
    assert told[1 : len(ids)] == [p[str(i)]["logprob"] for i, p in zip(ids[1:], positions[1:], strict=True)]


async def test_a_chat_keeps_its_prompts_logprobs_on_top_and_gives_them_for_an_echo(running: Running) -> None:
    answer = await body(running, CHAT, chat(prompt_logprobs=1, max_tokens=1))
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    echoed = await body(running, CHAT, chat(echo=True, max_tokens=1))
    assert [len(position) for position in echoed["prompt_logprobs"][1:]] == [1] * (len(echoed["prompt_logprobs"]) - 1)
    assert (await body(running, CHAT, chat(max_tokens=1)))["prompt_logprobs"] is None


async def test_named_tokens_are_told_at_every_position(running: Running) -> None:
    request = chat(logprobs=True, logprob_token_ids=[300, 301], return_tokens_as_token_ids=True, max_tokens=2)
    answer = await body(running, CHAT, request)
    for token in answer["choices"][0]["logprobs"]["content"]:
        assert token["token"].startswith("token_id:")
        assert [top["token"] for top in token["top_logprobs"]] == [token["token"], "token_id:300", "token_id:301"]


async def test_the_server_says_how_tokens_are_spelt_and_how_many_logprobs_there_are(start: Start) -> None:
    running = await start(api={"returnTokensAsTokenIds": True, "maxLogprobs": 2})
    request = {"prompt": PROMPT, "logprobs": 2, "max_tokens": 1}
    told = (await body(running, COMPLETION, request))["choices"][0]["logprobs"]
    assert told["tokens"][0].startswith("token_id:")
    as_text = await body(running, COMPLETION, {**request, "return_tokens_as_token_ids": False})
    assert as_text["choices"][0]["logprobs"]["tokens"] == ["Pl"]
    refused = await running.post(COMPLETION, {**request, "logprobs": 3})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == (
        "Requested sample logprobs of 3, which is greater than max allowed: 2 (parameter=logprobs, value=3)"
    )


async def test_without_a_limit_the_whole_vocabulary_is_told(start: Start) -> None:
    running = await start(api={"maxLogprobs": -1})
    answer = await body(running, CHAT, chat(logprobs=True, top_logprobs=-1, max_tokens=1))
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == running.server.tokenizer.vocab_size


async def test_the_same_request_has_the_same_logprobs_on_another_server(start: Start) -> None:
    request = {"prompt": PROMPT, "logprobs": 3, "max_tokens": 6}
    one, two = await start(seed=1), await start(seed=2)
    assert (await body(one, COMPLETION, request))["choices"] == (await body(two, COMPLETION, request))["choices"]
