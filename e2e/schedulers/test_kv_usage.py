"""Decisions by the share of the KV cache that is in use."""

from __future__ import annotations

from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import MODEL, Lab, scoring, until_gauge

ASK = {"model": MODEL, "prompt": "hello"}


def prompt(seed: int, tokens: int) -> list[int]:
    return [100 + (seed * 7919 + position * 31) % 2000 for position in range(tokens)]


def test_the_server_with_the_fullest_cache_is_avoided(lab: Lab) -> None:
    """Two long sequences fill nine tenths of one cache of 256 blocks, a short one a tenth of another."""
    full, fuller, empty = lab.pods()
    long = [(fuller.url, {"model": MODEL, "prompt": prompt(n, 1800), "max_tokens": 240}) for n in (1, 2)]
    short = (full.url, {"model": MODEL, "prompt": prompt(3, 400), "max_tokens": 1000})
    with lab.picker("kv-usage", scoring(kv_cache_utilization_scorer=1)) as picker, Busy(short, *long):
        until_gauge(fuller.url, "vllm:kv_cache_usage_perc", 0.85)
        until_gauge(full.url, "vllm:kv_cache_usage_perc", 0.09)
        picker.until("average_kv_cache_utilization", 0.3, 0.5)
        assert picker.spread(ASK, 20) == {empty.endpoint: 20}
