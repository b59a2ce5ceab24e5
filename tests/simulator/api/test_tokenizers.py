"""A tokenizer of one's own: the same tokens behind prompts, usage, tokens on demand and the cache."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.problems import InvalidInput, validated
from ghostfleet_simulator.runtime.clock import VirtualClock
from ghostfleet_simulator.runtime.server import SimulatedServer

from .conftest import running_server

WORDS = ["<end>", "the", "sun", "rises", "in", "east", "and", "sets", "west", "?", "."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer with a token per word."""
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(["<end>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": "<end>", "chat_template": "the sun {{ messages[-1].content }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def _server(**model: object) -> SimulatedServer:
    raw = {"model": {"name": "m", "maxModelLen": 64, **model}, "answers": {"mode": "Echo"}}
    return SimulatedServer(validated(ServerConfig, raw), clock=None)


async def test_every_count_is_of_the_folders_tokens(folder: Path) -> None:
    async with running_server(_server(tokenizer=str(folder))) as running:
        messages = [{"role": "user", "content": "rises in the east"}]
        request = {"messages": messages, "return_token_ids": True, "logprobs": True, "top_logprobs": 2}
        answer = (await running.post("/v1/chat/completions", request)).json()
        assert answer["prompt_token_ids"] == [1, 2, 3, 4, 1, 5]
        assert answer["usage"] == {
            "prompt_tokens": 6,
            "total_tokens": 11,
            "completion_tokens": 5,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }
        choice = answer["choices"][0]
        assert (choice["token_ids"], choice["message"]["content"]) == ([3, 4, 1, 5, 0], "rises in the east")
        assert [t["token"] for t in choice["logprobs"]["content"]] == ["rises", "in", "the", "east", "<end>"]
        tokenized = (await running.post("/tokenize", {"messages": messages})).json()
        assert tokenized["tokens"] == answer["prompt_token_ids"]


@pytest.mark.parametrize("as_file", [True, False])
async def test_a_chat_template_of_ones_own_replaces_the_folders(folder: Path, tmp_path: Path, as_file: bool) -> None:
    template = "{% for m in messages %}{{ m.content }} and {% endfor %}"
    given = tmp_path / "template.jinja"
    given.write_text(template)
    async with running_server(
        _server(tokenizer=str(folder), chatTemplate=str(given) if as_file else template)
    ) as running:
        request = {"messages": [{"role": "user", "content": "sun sets"}], "return_prompt_text": True}
        response: httpx.Response = await running.post("/v1/chat/completions", request)
        assert response.json()["prompt_text"] == "sun sets and "


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"tokenizer": "org/name-on-a-hub"}, "No such file"),
        ({"chatTemplate": "no/such/file.jinja"}, "no/such/file.jinja cannot be read: No such file"),
        ({"chatTemplate": "{% if %}"}, "chat template, line 1"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(model: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        SimulatedServer(validated(ServerConfig, {"model": {"name": "m", **model}}), clock=VirtualClock())
