"""llm-d's KV-event index on the ranks of one server: what it believes of each is what that rank's engine finds."""

from __future__ import annotations

import json

import httpx
import pytest
from tests.schedulers.conftest import Index
from tests.served import Serve, free_ports

SIZE = 2
BLOCK = 16


@pytest.mark.parametrize("own_ports", [False, True], ids=["one port", "a port per rank"])
def test_each_rank_is_known_for_what_it_holds(serve: Serve, index: Index, own_ports: bool) -> None:
    """Subscribed as llm-d does, rank i on port 5557 + i: the same tokens are a hit where they were computed alone."""
    first, events, replays = free_ports(SIZE), free_ports(SIZE), free_ports(SIZE)
    settings = {
        "enable_kv_cache_events": True,
        "endpoint": f"tcp://*:{events}",
        "replay_endpoint": f"tcp://*:{replays}",
        "topic": "kv@$(POD_IP):$(PORT)/$(RANK)@$(MODEL)",
    }
    serve(
        *("--port", str(first), "--data-parallel-size", str(SIZE), "--enable-prompt-tokens-details"),
        *("--kv-events-config", json.dumps(settings)),
        *(["--data-parallel-multi-port-external-lb"] if own_ports else []),
    )
    pods, sent = [], [0] * SIZE

    def found(rank: int, prompt: list[int]) -> int:
        """Send a prompt to a rank; how many of its blocks were in the rank's prefix cache."""
        url = f"http://127.0.0.1:{first + rank * own_ports}/v1/completions"
        headers = {} if own_ports else {"X-data-parallel-rank": str(rank)}
        answer = httpx.post(url, json={"prompt": prompt, "max_tokens": 1}, headers=headers, timeout=30).json()
        sent[rank] += 1
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"]) // BLOCK

    prompts = [[rank * 300 + token for token in range((2 + rank) * BLOCK + 5)] for rank in range(SIZE)]
    for rank in range(SIZE):
        assert found(rank, prompts[rank]) == 0
        pods.append(f"127.0.0.1:{first + rank * own_ports}/{rank}")
        assert index.ask("replay", endpoint=f"tcp://127.0.0.1:{replays + rank}", sequence=0) == sent[rank]
        assert not index.ask("settle", topic=f"kv@{pods[rank]}@m", sequence=sent[rank] - 1)
    for rank, prompt in enumerate(prompts):
        believed = [index.score(pod, prompt) for pod in pods]
        assert believed == [len(prompt) // BLOCK if other == rank else 0 for other in range(SIZE)]
        assert [found(other, prompt) for other in range(SIZE)] == believed
