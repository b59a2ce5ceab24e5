"""llm-d's KV-event index v0.9.0 on the events of real servers: what it believes is what their engines find."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from tests.schedulers.conftest import Index
from tests.served import Serve, Served, free_port

BLOCK = 16
ENCODINGS = [("0.23", "1"), ("0.23", "0"), ("0.33", "1"), ("0.33", "0")]
"""Arrays and maps, with hashes as numbers and as bytes."""


class Server:
    """A server that publishes, as a client of it and of the index sees it."""

    def __init__(self, serve: Serve, *flags: str, hashes: str = "1", **config: Any) -> None:
        self.port, self.replay_port = free_port(), free_port()
        settings = {
            "enable_kv_cache_events": True,
            "endpoint": f"tcp://*:{self.port}",
            "replay_endpoint": f"tcp://*:{self.replay_port}",
            "topic": "kv@$(POD_IP):$(PORT)@$(MODEL)",
        } | config
        self.served: Served = serve(
            *("--kv-events-config", json.dumps(settings), *flags),
            environment={"VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": hashes},
        )
        self.pod = f"127.0.0.1:{self.served.port}"
        self.topic = f"kv@{self.pod}@m"

    def found(self, prompt: list[int]) -> int:
        """Send a prompt; how many of its blocks were in the prefix cache."""
        body = {"prompt": prompt, "max_tokens": 1, "ignore_eos": True}
        answer = httpx.post(f"{self.served.url}/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached % BLOCK == 0
        return int(cached) // BLOCK

    @property
    def published(self) -> int:
        """Number of the last batch."""
        return int(self.served.state()["kvEvents"]["sequence"]) - 1

    def connect(self, index: Index) -> None:
        index.ask("subscribe", pod=self.pod, endpoint=f"tcp://127.0.0.1:{self.port}")
        self.wait_until_heard(index)

    def wait_until_heard(self, index: Index) -> None:
        """A subscription takes a moment; ends when the index knows of a block that the server just stored."""
        for number in range(200):
            prompt = [1800 + number] * (BLOCK + 1)
            self.found(prompt)
            for _ in range(10):
                if index.score(self.pod, prompt):
                    return
                time.sleep(0.01)
        pytest.fail("the index hears nothing")

    def settle(self, index: Index) -> None:
        assert not index.ask("settle", topic=self.topic, sequence=self.published), "batches that cannot be decoded"


def prompts(rng: Random) -> list[int]:
    """A beginning that others may have too, and an end of its own; never full blocks only, see docs/kv-events.md."""
    begin, shared = rng.choice([500, 700, 900, 1100]), rng.randrange(1, 7) * BLOCK
    own = rng.randrange(0, 3) * BLOCK + rng.randrange(1, BLOCK - 1)
    return [*range(begin, begin + shared), *(rng.randrange(500) for _ in range(own))]


def compare(server: Server, index: Index, rounds: int, seed: int = 0) -> tuple[int, int]:
    """Before each request the index says what the engine then finds; returns blocks found, and batches."""
    rng, found = Random(seed), 0
    for _ in range(rounds):
        prompt = prompts(rng)
        server.settle(index)
        believed = index.score(server.pod, prompt)
        blocks = server.found(prompt)
        assert believed == blocks
        found += blocks
    return found, server.published


@pytest.mark.parametrize(("version", "hashes"), ENCODINGS)
def test_scores_are_what_the_engine_finds_under_eviction(serve: Serve, index: Index, version: str, hashes: str) -> None:
    """Bound, in every encoding, with a cache that holds a fraction of the prompts."""
    flags = ["--enable-prompt-tokens-details", "--vllm-version", version]
    flags += ["--max-model-len", "256", "--num-gpu-blocks-override", "40"]
    server = Server(serve, *flags, hashes=hashes)
    server.connect(index)
    found, _ = compare(server, index, 120)
    assert found > 100, "nothing was ever found, so nothing was compared"
    metrics = httpx.get(f"{server.served.url}/metrics").text
    assert "ghostfleet_kv_event_overflows_total" in metrics


def test_scores_of_servers_that_show_themselves_as_sglang(serve: Serve, index_program: Path) -> None:
    """The library's adapter for SGLang reads their events; blocks are the same, so scores are, too."""
    index = Index(index_program, "sglang")
    try:
        flags = ["--dialect", "sglang", "--enable-prompt-tokens-details"]
        server = Server(serve, *flags, "--max-model-len", "256", "--num-gpu-blocks-override", "40")
        server.connect(index)
        found, _ = compare(server, index, 60)
        assert found > 50, "nothing was ever found, so nothing was compared"
    finally:
        index.close()


def test_servers_that_connect_to_the_index_are_told_apart_by_their_topic(serve: Serve, index: Index) -> None:
    """One socket of the index for all; each has its own cache."""
    port = free_port()
    index.ask("subscribe", pod="all", endpoint=f"tcp://127.0.0.1:{port}", bind=True)
    flags = ["--enable-prompt-tokens-details", "--max-model-len", "256"]
    both = [Server(serve, *flags, connect=[f"tcp://127.0.0.1:{port}"]) for _ in range(2)]
    for server in both:
        server.wait_until_heard(index)
    prompt = list(range(100, 169))
    assert both[0].found(prompt) == 0
    both[0].settle(index)
    assert [index.score(server.pod, prompt) for server in both] == [4, 0]
    assert [server.found(prompt) for server in both] == [4, 0]
    for seed, server in enumerate(both):
        compare(server, index, 20, seed)


def test_who_comes_late_asks_for_what_was_before(serve: Serve, index: Index) -> None:
    """Replay from 0 into an empty index gives the scores of one that heard all."""
    flags = ["--enable-prompt-tokens-details", "--max-model-len", "256", "--num-gpu-blocks-override", "40"]
    server = Server(serve, *flags)
    rng = Random(7)
    for _ in range(60):
        server.found(prompts(rng))
    assert index.ask("replay", endpoint=f"tcp://127.0.0.1:{server.replay_port}", sequence=0) == server.published + 1
    server.settle(index)
    for _ in range(20):
        prompt = prompts(rng)
        believed = index.score(server.pod, prompt)
        assert server.found(prompt) == believed
        index.ask("clear", pod=server.pod)
        index.ask("replay", endpoint=f"tcp://127.0.0.1:{server.replay_port}", sequence=0)
        server.settle(index)


def test_a_restarted_server_begins_anew(serve: Serve, index: Index) -> None:
    """Its numbers begin at 0 and its cache is empty; cleared and subscribed again, the index is right."""
    flags = ["--enable-prompt-tokens-details", "--max-model-len", "256"]
    first = Server(serve, *flags)
    first.connect(index)
    compare(first, index, 10)
    first.served.process.terminate()
    first.served.process.wait(20)
    index.ask("unsubscribe", pod=first.pod)
    index.ask("clear", pod=first.pod)
    second = Server(serve, *flags)
    assert second.published == -1
    prompt = list(range(100, 169))
    assert second.found(prompt) == 0
    assert second.published == 0
    index.ask("replay", endpoint=f"tcp://127.0.0.1:{second.replay_port}", sequence=0)
    second.settle(index)
    assert index.score(second.pod, prompt) == second.found(prompt) == 4
    second.connect(index)
    compare(second, index, 10)


def test_a_block_that_is_only_in_host_memory_counts_for_less(serve: Serve, index: Index, tmp_path: Path) -> None:
    """0.8 each, the index's own weight of that tier; the engine brings them back."""
    file = tmp_path / "server.yaml"
    size = {"blocks": 17, "bytesPerToken": "1Ki", "tiers": [{"medium": "CPU", "capacity": "4Mi"}]}
    file.write_text(json.dumps({"model": {"name": "m", "maxModelLen": 256}, "kvCache": size}))
    server = Server(serve, "--config", str(file), "--enable-prompt-tokens-details")
    server.connect(index)
    prompt = list(range(100, 165))
    server.found(prompt)
    time.sleep(0.2)
    for number in range(4):
        server.found([1700 + number] * 65)
        time.sleep(0.1)
    server.settle(index)
    assert index.score(server.pod, prompt) == pytest.approx(4 * 0.8)
    assert server.found(prompt) == 4
    server.settle(index)
    assert index.score(server.pod, prompt) == 4


def test_a_reset_empties_the_index(serve: Serve, index: Index) -> None:
    """With the next step, as vLLM tells of it."""
    server = Server(serve, "--enable-prompt-tokens-details", "--max-model-len", "256", "--server-dev-mode")
    server.connect(index)
    prompt = list(range(100, 169))
    server.found(prompt)
    server.settle(index)
    assert index.score(server.pod, prompt) == 4
    assert httpx.post(f"{server.served.url}/reset_prefix_cache").json() == {"success": True}
    server.found([1] * 17)
    server.settle(index)
    assert index.score(server.pod, prompt) == server.found(prompt) == 0
