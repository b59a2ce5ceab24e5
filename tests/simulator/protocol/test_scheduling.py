"""On the wire: what the prefix cache holds is faster and is counted, salts keep requests apart, the urgent go first."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from .conftest import Serve, Served

PROMPT = list(range(1000, 1400))


def complete(server: Served, prompt: list[int], *, headers: dict[str, str] | None = None, **fields: Any) -> float:
    """Seconds that a completion of a few tokens takes."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 2, "ignore_eos": True, **fields}
    begin = time.monotonic()
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == body["max_tokens"]
    return time.monotonic() - begin


def metric(server: Served, name: str, **labels: str) -> float:
    """The value of a series."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    (line,) = [row for row in lines if row.startswith(f"{name}{{") and all(part in row for part in wanted)]
    return float(line.rpartition(" ")[2])


def test_a_prompt_that_is_there_is_paid_for_in_part(serve: Serve) -> None:
    """400 tokens at 1 ms each; the last block of 16 is computed again, or all of it with another salt."""
    server = serve("--prefill-time-per-token", "1ms")
    first, second = complete(server, PROMPT), complete(server, PROMPT)
    assert first >= 0.4
    assert 0.016 <= second < 0.2
    assert complete(server, PROMPT, cache_salt="other") >= 0.4
    assert metric(server, "vllm:prefix_cache_queries_total") == 1200
    assert metric(server, "vllm:prefix_cache_hits_total") == 384
    assert metric(server, "vllm:prompt_tokens_by_source_total", source="local_cache_hit") == 384
    assert metric(server, "vllm:request_prefill_kv_computed_tokens_sum") == 1200 - 384
    assert metric(server, "vllm:kv_cache_usage_perc") == 0


def test_without_the_cache_every_prompt_is_paid_for(serve: Serve) -> None:
    server = serve("--prefill-time-per-token", "1ms", "--no-enable-prefix-caching")
    assert min(complete(server, PROMPT), complete(server, PROMPT)) >= 0.4
    assert metric(server, "vllm:prefix_cache_queries_total") == 0
    assert metric(server, "vllm:cache_config_info", enable_prefix_caching="False") == 1


def test_the_urgent_overtake_those_that_wait(serve: Serve) -> None:
    """One slot: whoever waits goes by the header, then by the body, whatever the order of arrival."""
    server = serve("--max-num-seqs", "1", "--scheduling-policy", "priority", "--inter-token-latency", "200ms")
    ended: list[str] = []

    def ask(name: str, **more: Any) -> None:
        complete(server, [len(name)], **more)
        ended.append(name)

    with ThreadPoolExecutor(4) as pool:
        pool.submit(ask, "runs", max_tokens=20)
        server.until(running=1)
        pool.submit(ask, "patient", priority=5)
        server.until(waiting=1)
        pool.submit(ask, "usual")
        server.until(waiting=2)
        pool.submit(ask, "urgent", priority=9, headers={"X-Vllm-Priority": "-1"})
        server.until(waiting=3)
    assert ended == ["runs", "urgent", "usual", "patient"]
