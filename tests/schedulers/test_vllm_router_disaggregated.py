"""vllm-router 0.1.17 between servers that prefill and one that decodes, with each connector that both know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.schedulers.routers import VLLM_ROUTER, Router, answered, required, routing, until
from tests.served import Serve, Served, free_port

SLOW = ("--time-to-first-token", "60s", "--inter-token-latency", "1ms")
"""One that computes no prompt itself within the time of a test."""
QUICK = ("--time-to-first-token", "1ms", "--inter-token-latency", "1ms")
CONNECTORS = {"nixl": "NixlConnector", "mooncake": "MooncakeConnector"}
TRANSFERS = {"nixl": "vllm:nixl_xfer_time_seconds_count", "mooncake": "vllm:mooncake_xfer_time_seconds_count"}
REQUESTS = [("alpha", False), ("omega", True), ("sigma", True), ("gamma", False)]
"""The word of the prompt, and whether the answer is streamed."""

pytestmark = pytest.mark.timeout(600)  # the first of them may install the router


def of(serve: Serve, connector: str, role: str, port: int, *flags: str) -> Served:
    config = {"kv_connector": CONNECTORS[connector], "kv_role": role}
    ports = ("--kv-side-channel-port", str(port), "--kv-bootstrap-port", str(port))
    return serve("--kv-transfer-config", json.dumps(config), *ports, "--enable-prompt-tokens-details", *flags)


def chat(word: str, stream: bool) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"{word} " * 120}],
        "max_tokens": 5,
        "ignore_eos": True,
        "stream": stream,
    }


def newest(server: Served) -> Any:
    return httpx.get(f"{server.admin_url}/admin/requests").json()["requests"][0]


def value(server: Served, series: str, **labels: str) -> float:
    """Of one series of a server."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    [line] = [
        line
        for line in lines
        if line.startswith(series) and all(f'{name}="{label}"' in line for name, label in labels.items())
    ]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("connector", ["nixl", "mooncake"])
def test_prompts_are_computed_by_one_and_answers_made_by_the_other(
    serve: Serve, tmp_path: Path, connector: str
) -> None:
    """Two that prefill, in turn, and a decoding one that would need a minute for a prompt: all of it is transferred."""
    ports = [free_port(), free_port()]
    prefill = [of(serve, connector, "kv_producer", port, *QUICK) for port in ports]
    decode = of(serve, connector, "kv_consumer", free_port(), *SLOW)
    sides = [
        flag
        for server, port in zip(prefill, ports, strict=True)
        for flag in ("--prefill", server.url, "none" if connector == "nixl" else str(port))
    ]
    flags = ("--vllm-pd-disaggregation", "--kv-connector", connector, "--policy", "round_robin", *sides)
    intervals = ("--worker-startup-check-interval", "1", "--health-check-interval-secs", "1")
    program = required("vllm-router", VLLM_ROUTER)
    with routing(program, tmp_path / "router.log", *flags, "--decode", decode.url, *intervals) as made:
        prompts = [ask(made, prefill, decode, word, stream) for word, stream in REQUESTS]
        assert value(decode, "vllm:prompt_tokens_by_source_total", source="external_kv_transfer") == sum(prompts)
        assert value(decode, "vllm:prompt_tokens_by_source_total", source="local_compute") == 0
        assert sum(value(server, TRANSFERS[connector]) for server in (*prefill, decode)) == len(REQUESTS)
        until(lambda: all(server.state()["kvTransfer"]["held"] == 0 for server in prefill), made)
        assert [server.state()["kvUsage"] for server in prefill] == [0, 0]
        # The first one again, in the turn of the same server, which has it in its cache; here the router tells of that.
        again = made.post("/v1/chat/completions", **chat(REQUESTS[0][0], stream=False)).json()["usage"]
    assert (
        again["prompt_tokens_details"]["cached_tokens"] == newest(prefill[0])["cachedTokens"] == prompts[0] // 16 * 16
    )


def ask(made: Router, prefill: list[Served], decode: Served, word: str, stream: bool) -> int:
    """A request that nobody has seen before, and where its halves went; the number of its prompt's tokens."""
    before = [answered(server) for server in (*prefill, decode)]
    answer = made.post("/v1/chat/completions", **chat(word, stream))
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n") == stream
    after = [answered(server) for server in (*prefill, decode)]
    *legs, decoded = [now - then for now, then in zip(after, before, strict=True)]
    assert (sorted(legs), decoded) == ([0, 1], 1)
    assert legs.index(1) == [one for one, _ in REQUESTS].index(word) % 2
    first, second = newest(prefill[legs.index(1)]), newest(decode)
    assert (first["completionTokens"], second["completionTokens"]) == (1, 5)
    assert first["finishReason"] == second["finishReason"] == "length"
    assert first["promptTokens"] == second["promptTokens"] > 100
    return int(second["promptTokens"])
