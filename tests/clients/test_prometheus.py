"""Debian's Prometheus server scrapes ours, unmodified, and answers queries with what was sent.

CI installs the server (`.ci/run`); elsewhere these tests are skipped where it is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.served import Served, free_port

BINARY = shutil.which("prometheus")
PROMPT_TOKENS, REQUESTS = [7] * 40, 30


def _installed() -> str:
    if BINARY is None:
        assert "GHOSTFLEET_CI" not in os.environ, "CI must have Prometheus: apt-get install prometheus"
        pytest.skip("no Prometheus server here; on Debian: apt-get install --no-install-recommends prometheus")
    return BINARY


@dataclass
class Prometheus:
    """A running Prometheus server."""

    url: str

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an expression gives now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def value(self, expression: str) -> float:
        """The value of an expression that gives one series."""
        [(_, value)] = self.query(expression)
        return value

    def until(self, expression: str, fits: Callable[[float], bool]) -> float:
        """The value once it fits; fails after 20 s."""
        end = time.monotonic() + 20
        while not (found := self.query(expression)) or not fits(found[0][1]):
            assert time.monotonic() < end, f"{expression} is {found}"
            time.sleep(0.1)
        return found[0][1]


@pytest.fixture(scope="module")
def prometheus(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes the server four times a second."""
    binary, folder, port = _installed(), tmp_path_factory.mktemp("prometheus"), free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
        f"scrape_configs: [{{job_name: vllm, static_configs: [{{targets: ['127.0.0.1:{served.port}']}}]}}]\n"
    )
    flags = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    flags += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, *flags], cwd=folder, stdout=log, stderr=log)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        end = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{server.url}/-/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < end, Path(log.name).read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def loaded(served: Served, prometheus: Prometheus) -> Prometheus:
    """After one scrape of the idle server, thirty requests and another scrape."""
    prometheus.until("up", lambda value: value == 1)
    prometheus.until("vllm:request_success_total{finished_reason='length'}", lambda value: value == 0)
    with httpx.Client(base_url=served.url) as client:
        for number in range(REQUESTS):
            body: dict[str, Any] = {"prompt": PROMPT_TOKENS, "max_tokens": 10 + number, "ignore_eos": True}
            assert client.post("/v1/completions", json=body).status_code == 200
        assert client.post("/v1/completions", json={"prompt": "x", "model": "other"}).status_code == 404
    prometheus.until("vllm:request_success_total{finished_reason='length'}", lambda value: value == REQUESTS)
    return prometheus


GENERATED = sum(10 + number for number in range(REQUESTS))
HITS = (REQUESTS - 1) * 32
"""The first two blocks of a prompt that was there before; the last one is computed again."""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("vllm:generation_tokens_total", GENERATED),
        ("vllm:prompt_tokens_total", REQUESTS * len(PROMPT_TOKENS)),
        ("sum(vllm:prompt_tokens_by_source_total)", REQUESTS * len(PROMPT_TOKENS)),
        ("sum by (model_name) (vllm:request_success_total)", REQUESTS),
        ("vllm:request_generation_tokens_sum / vllm:request_generation_tokens_count", GENERATED / REQUESTS),
        ("vllm:request_prompt_tokens_bucket{le='20.0'}", 0),
        ("vllm:request_prompt_tokens_bucket{le='50.0'}", REQUESTS),
        ("vllm:time_to_first_token_seconds_count", REQUESTS),
        ("vllm:inter_token_latency_seconds_count", GENERATED - REQUESTS),
        ("vllm:iteration_tokens_total_sum", GENERATED + REQUESTS * len(PROMPT_TOKENS) - HITS),
        ("vllm:prefix_cache_hits_total", HITS),
        ("vllm:num_requests_running", 0),
        ("vllm:num_requests_waiting", 0),
        ("vllm:kv_cache_usage_perc", 0),
        ("http_requests_total{handler='/v1/completions',status='2xx'}", REQUESTS),
        ("http_requests_total{handler='/v1/completions',status='4xx'}", 1),
        ("count(vllm:cache_config_info)", 1),
        ("vllm:cache_config_info", 1),
        ("vllm:prefix_cache_queries_total", REQUESTS * len(PROMPT_TOKENS)),
    ],
)
def test_a_query_gives_what_was_sent(loaded: Prometheus, expression: str, expected: float) -> None:
    """Counters, gauges, sums and buckets, through Prometheus' own parser and storage."""
    assert loaded.value(expression) == pytest.approx(expected)


def test_quantiles_are_the_times_that_were_set(loaded: Prometheus) -> None:
    """10 ms to the first token and 1 ms between tokens, as a dashboard computes them from the buckets."""
    first = loaded.value("histogram_quantile(0.5, vllm:time_to_first_token_seconds_bucket)")
    assert 0.005 <= first <= 0.06
    assert loaded.value("histogram_quantile(0.5, vllm:inter_token_latency_seconds_bucket)") <= 0.025


def test_a_dashboards_rates_see_the_load(served: Served, loaded: Prometheus) -> None:
    """`rate` over a window, by the labels that dashboards filter with."""
    with httpx.Client(base_url=served.url) as client:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            client.post("/v1/completions", json={"prompt": "x", "max_tokens": 50, "ignore_eos": True})
    rate = loaded.until("rate(vllm:generation_tokens_total{model_name='m',engine='0'}[2s])", lambda value: value > 0)
    assert 50 < rate < 1100


def test_every_scrape_was_understood(loaded: Prometheus) -> None:
    """No scrape failed or dropped a sample, and types and help texts came along."""
    assert loaded.value("min_over_time(up[1m])") == 1
    assert loaded.value("scrape_samples_scraped - scrape_samples_post_metric_relabeling") == 0
    assert loaded.value("scrape_samples_scraped") > 300
    metadata = httpx.get(f"{loaded.url}/api/v1/metadata").json()["data"]
    assert metadata["vllm:num_requests_running"][0]["type"] == "gauge"
    assert metadata["vllm:generation_tokens_total"][0]["type"] == "counter"
    assert metadata["vllm:e2e_request_latency_seconds"][0]["type"] == "histogram"
    assert all(entry[0]["help"] for name, entry in metadata.items() if name.startswith("vllm:"))
