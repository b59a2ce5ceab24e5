"""Data-parallel ranks as vLLM's contract has them: balancing, pinning, metrics, sources of events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.served import Serve, free_ports

from .conftest import INSTANT, Vllm, refused

SIZE = 4


@pytest.fixture(scope="module")
def ranked(serve: Serve) -> Iterator[Vllm]:
    """A server of four ranks that publish; requests take 2 s, so that several are under way at once on any machine."""
    events = {"enable_kv_cache_events": True, "endpoint": f"tcp://*:{free_ports(SIZE)}"}
    flags = ("--kv-events-config", json.dumps(events), "-dp", str(SIZE), "--time-to-first-token", "2s")
    served = serve(*INSTANT, *flags)
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield Vllm(served, client)


def finished(ranked: Vllm) -> list[float]:
    """Requests that ended, by engine in the order of the exposition."""
    text = ranked.client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    ended = [sample for sample in samples if sample.name == "vllm:e2e_request_latency_seconds_count"]
    assert [sample.labels["engine"] for sample in ended] == ["0", "1", "2", "3"]
    return [sample.value for sample in ended]


def test_ranks_take_turns(ranked: Vllm) -> None:
    """6: requests are spread over the ranks behind one port by what is in flight, with a start that goes round."""
    before = finished(ranked)
    with ThreadPoolExecutor(2 * SIZE) as pool:
        answers = list(pool.map(lambda number: ranked.completion(f"n {number}", max_tokens=1), range(2 * SIZE)))
    assert {answer.status_code for answer in answers} == {200}
    assert [after - earlier for after, earlier in zip(finished(ranked), before, strict=True)] == [2, 2, 2, 2]


def test_rank_is_pinned(ranked: Vllm) -> None:
    """1b: X-data-parallel-rank names the rank that takes a request; what is no number names none."""
    before = finished(ranked)
    for given in ("2", "2", "x"):
        asked = ranked.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, X_data_parallel_rank=given)
        assert asked.status_code == 200
    after = finished(ranked)
    assert after[2] - before[2] >= 2
    assert sum(after) - sum(before) == 3


def test_rank_beyond_the_last(ranked: Vllm) -> None:
    """1e: the message names the number of ranks."""
    refusal = ranked.post("/v1/completions", {"prompt": "x"}, X_data_parallel_rank="4")
    assert refused(refusal)[2].startswith("data_parallel_rank 4 is out of range [0, 4).")


def test_every_engine_has_its_series(ranked: Vllm) -> None:
    """2: engine metrics have a series for each rank, engine="0" to "N-1", from the start; those of a cause, too."""
    text = ranked.client.get("/metrics").text
    for family in text_string_to_metric_families(text):
        engines = [sample.labels["engine"] for sample in family.samples if "engine" in sample.labels]
        if family.name.startswith("vllm:") and engines:
            assert list(dict.fromkeys(engines)) == ["0", "1", "2", "3"], family.name
            assert len({engines.count(engine) for engine in engines}) == 1, family.name


def test_kv_event_sources_of_ranks(ranked: Vllm) -> None:
    """1a: GET /kv_event_sources has an entry for each rank; rank i publishes on the port + i."""
    sources = ranked.client.get("/kv_event_sources").json()
    ports = [int(sources[str(rank)]["endpoint"].rpartition(":")[2]) for rank in range(SIZE)]
    assert list(sources) == ["0", "1", "2", "3"]
    assert [port - ports[0] for port in ports] == [0, 1, 2, 3]


def test_fingerprint_of_ranks(ranked: Vllm) -> None:
    """1d: system_fingerprint tells the number of ranks."""
    told = ranked.completion("x", max_tokens=1).json()["system_fingerprint"]
    assert told.startswith("vllm-0.33.0-dp4-")
