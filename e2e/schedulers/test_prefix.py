"""Prefix affinity: the picker goes by the blocks of prompts that it sent, cut as the servers say in their metrics."""

from __future__ import annotations

import httpx

from e2e.conftest import until
from e2e.schedulers.lab import MODEL, Lab, gauge, scoring

CONFIG = scoring("approx-prefix-cache-producer", prefix_cache_scorer=1)


def body(prompt: str) -> dict[str, object]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": 2}


def text(seed: str, characters: int) -> str:
    return " ".join(f"{seed}{number}" for number in range(characters))[:characters]


def test_a_prefix_goes_where_it_went_and_is_found_there(lab: Lab) -> None:
    """Ten prompts that begin alike go to one server, which has the beginning in its cache; others are shared out."""
    pods = {pod.endpoint: pod.url for pod in lab.pods()}
    with lab.picker("prefix", CONFIG) as picker:
        shared = text("shared", 1600)
        first = picker.ask(body(shared)).endpoint
        assert first in pods
        httpx.post(f"{pods[first]}/v1/completions", json=body(shared), timeout=60, trust_env=False)
        for number in range(10):
            longer = body(f"{shared} and then {number}")
            assert picker.ask(longer).endpoint == first
            answer = httpx.post(f"{pods[first]}/v1/completions", json=longer, timeout=60, trust_env=False)
            usage = answer.raise_for_status().json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.7 * usage["prompt_tokens"], usage
        others = {picker.ask(body(text(f"other{number}-", 100))).endpoint for number in range(60)}
        assert others == set(pods)


def test_blocks_are_those_that_the_servers_tell_of(lab: Lab) -> None:
    """`cache_config_info` has 257 blocks of 16 tokens, which the picker takes for four characters each."""
    with lab.picker("prefix-size", CONFIG) as picker:

        def known() -> float | None:
            return gauge(picker.url, "inference_extension_prefix_indexer_size")

        picker.ask(body(text("first", 1600)))
        until("the blocks of one prompt are known", lambda: known() == 1600 // (16 * 4))
        for number in range(60):
            picker.ask(body(text(f"filler{number}-", 6000)))
        until("of each server as many are known as it has", lambda: known() == 3 * 257)
