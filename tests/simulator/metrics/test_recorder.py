"""What a run of the engine leaves in the metrics, and when: against the engine itself on a clock of the test's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.config import FailureType, ServerConfig
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.problems import validated

Value = Callable[..., float]


@dataclass
class _Answer:
    length: int
    finish_reason: str = "length"
    stop_reason: int | str | None = None

    def token_ids(self, start: int, stop: int) -> list[int]:
        return list(range(start, stop))


def _run(metrics: ServerMetrics, requests: list[tuple[int, int, int]], seqs: int = 4) -> list[Sequence]:
    """Serve (arrival_us, prompt tokens, answer tokens) with 100 ms to the first token and 20 ms between tokens."""
    config = validated(
        ServerConfig,
        {
            "model": {"name": "m", "maxModelLen": 4096},
            "scheduling": {"maxNumSeqs": seqs},
            "profile": {"simple": {"timeToFirstToken": "100ms", "interTokenLatency": "20ms"}},
        },
    )
    engine = Engine(config)
    pending = sorted(requests)
    sequences: list[Sequence] = []
    wake: int | None = 0
    while pending or wake is not None:
        now = min(at for at in (wake, pending[0][0] if pending else None) if at is not None)
        while pending and pending[0][0] <= now:
            at, prompt, answer = pending.pop(0)
            seq = Sequence(f"r{len(sequences)}", [7] * prompt, _Answer(answer), at, max_tokens=answer)
            sequences.append(seq)
            engine.add(seq, now)
        step = engine.advance(now)
        metrics.engines[0].on_step(step, now, engine.running, engine.waiting, 0, engine.kv_usage)
        for seq in step.first:
            metrics.engines[0].on_first_token(seq, now)
        for seq in step.finished:
            metrics.engines[0].on_finished(seq, now)
        wake = max(step.wake_us, now) if step.wake_us is not None else None
    return sequences


def test_one_request_leaves_its_times(metrics: ServerMetrics, value: Value) -> None:
    _run(metrics, [(0, 50, 11)])
    for name, seconds in {
        "time_to_first_token_seconds": 0.1,
        "e2e_request_latency_seconds": 0.3,
        "request_queue_time_seconds": 0,
        "request_prefill_time_seconds": 0.1,
        "request_decode_time_seconds": 0.2,
        "request_inference_time_seconds": 0.3,
        "request_time_per_output_token_seconds": 0.02,
        "inter_token_latency_seconds": 0.2,
    }.items():
        assert value(f"vllm:{name}_sum") == pytest.approx(seconds), name
    assert value("vllm:inter_token_latency_seconds_count") == 10
    assert value("vllm:inter_token_latency_seconds_bucket", le="0.01") == 0
    assert value("vllm:inter_token_latency_seconds_bucket", le="0.025") == 10
    assert value("vllm:request_success_total", finished_reason="length") == 1
    for name, tokens in {
        "request_prompt_tokens": 50,
        "request_prefill_kv_computed_tokens": 50,
        "request_generation_tokens": 11,
        "request_params_max_tokens": 11,
        "request_num_preemptions": 0,
    }.items():
        assert (value(f"vllm:{name}_count"), value(f"vllm:{name}_sum")) == (1, tokens)


def test_what_the_prefix_cache_held_is_told_apart(metrics: ServerMetrics, value: Value) -> None:
    # The second prompt begins as the first one does; its last block is computed, as a token is needed to go on from.
    _run(metrics, [(0, 64, 5), (1_000_000, 100, 5)])
    assert value("vllm:prefix_cache_queries_total") == value("vllm:prompt_tokens_total") == 164
    assert value("vllm:prefix_cache_hits_total") == value("vllm:prompt_tokens_cached_total") == 64
    assert value("vllm:prompt_tokens_cached_by_source_total", source="device") == 64
    assert value("vllm:prompt_tokens_by_source_total", source="local_cache_hit") == 64
    assert value("vllm:prompt_tokens_by_source_total", source="local_compute") == 100
    assert value("vllm:prompt_tokens_by_source_total", source="external_kv_transfer") == 0
    assert value("vllm:request_prompt_tokens_sum") == 164
    assert value("vllm:request_prefill_kv_computed_tokens_sum") == 100
    assert value("vllm:iteration_tokens_total_sum") == 100 + 10
    assert [record.cached_tokens for record in metrics.requests.newest(2)] == [64, 0]


def test_time_in_the_queue_is_told_apart_from_time_in_the_engine(metrics: ServerMetrics, value: Value) -> None:
    _run(metrics, [(0, 10, 6), (0, 10, 6)], seqs=1)
    assert value("vllm:request_queue_time_seconds_sum") == pytest.approx(0.2)
    assert value("vllm:request_inference_time_seconds_sum") == pytest.approx(0.4)
    assert value("vllm:time_to_first_token_seconds_sum") == pytest.approx(0.1 + 0.3)
    assert value("vllm:e2e_request_latency_seconds_sum") == pytest.approx(0.2 + 0.4)


runs = st.lists(st.tuples(st.integers(0, 500_000), st.integers(1, 300), st.integers(1, 20)), min_size=1, max_size=12)


@given(runs)
def test_the_books_balance_whatever_was_served(requests: list[tuple[int, int, int]]) -> None:
    config = validated(ServerConfig, {"model": {"name": "m", "maxModelLen": 4096}})
    metrics = ServerMetrics(config)
    sequences = _run(metrics, requests)
    m, totals = metrics.engines[0].measures, metrics.totals()
    tokens = sum(answer for _, _, answer in requests)
    assert totals["generationTokens"] == tokens == m.request_generation_tokens.sum
    assert totals["promptTokens"] == sum(prompt for _, prompt, _ in requests) == m.request_prompt_tokens.sum
    cached = sum(seq.cached_tokens for seq in sequences)
    assert m.prompt_tokens_hit.value == m.prompt_tokens_cached.value == m.prefix_hits.value == cached
    assert m.prefix_queries.value == totals["promptTokens"]
    assert m.request_prefill_computed_tokens.sum == m.prompt_tokens_computed.value == totals["promptTokens"] - cached
    assert m.iteration_tokens.sum == totals["generationTokens"] + totals["promptTokens"] - cached
    assert totals["length"] == len(requests) == sum(m.time_to_first_token.counts)
    assert sum(m.inter_token_latency.counts) == tokens - len(requests)
    assert m.inter_token_latency.sum == m.decode_time.sum
    assert m.inference_time.sum == m.prefill_time.sum + m.decode_time.sum
    assert m.e2e_latency.sum == m.queue_time.sum + m.inference_time.sum
    assert (m.running.value, m.waiting.value, m.kv_usage.value) == (0, 0, 0)
    assert sum(m.finished[reason].value for reason in m.finished) == len(sequences)


def test_the_gauges_tell_of_the_last_step(metrics: ServerMetrics, value: Value) -> None:
    metrics.engines[0].on_step(Step(), 0, 3, 5, 2, 0.25)
    assert value("vllm:num_requests_running") == 3
    assert value("vllm:num_requests_waiting") == 7
    assert value("vllm:num_requests_waiting_by_reason", reason="capacity") == 5
    assert value("vllm:num_requests_waiting_by_reason", reason="deferred") == 2
    assert value("vllm:kv_cache_usage_perc") == 0.25
    assert value("vllm:iteration_tokens_total_count") == 0, "a step without output has no iteration statistics"


def test_preemptions_are_counted_also_without_output(metrics: ServerMetrics, value: Value) -> None:
    step = Step()
    step.preempted = 2
    metrics.engines[0].on_step(step, 0, 1, 2, 0, 1.0)
    assert value("vllm:num_preemptions_total") == 2


def _sequence(**facts: object) -> Sequence:
    seq = Sequence("chatcmpl-1", [7] * 10, _Answer(5), 1_000_000, max_tokens=5)
    for name, fact in facts.items():
        setattr(seq, name, fact)
    return seq


def test_a_sequence_aborted_in_the_queue_has_no_negative_times(metrics: ServerMetrics, value: Value) -> None:
    metrics.engines[0].on_finished(_sequence(queued_us=1_000_000, finish_reason="abort"), 3_000_000)
    assert value("vllm:request_success_total", finished_reason="abort") == 1
    assert value("vllm:e2e_request_latency_seconds_sum") == 2
    for phase in ("queue", "prefill", "decode", "inference"):
        assert value(f"vllm:request_{phase}_time_seconds_sum") == 0


def test_a_client_that_goes_away_is_remembered_and_not_counted(metrics: ServerMetrics, value: Value) -> None:
    before = metrics.totals()
    metrics.engines[0].on_aborted(_sequence(queued_us=1_000_000, finish_reason="abort"), 3_000_000)
    assert metrics.totals() == before
    assert value("vllm:e2e_request_latency_seconds_count") == 0
    (record,) = metrics.requests.newest()
    assert (record.finish_reason, record.queue_time, record.latency) == ("abort", None, 2.0)


def test_the_answers_of_one_prompt_are_counted_together(metrics: ServerMetrics, value: Value) -> None:
    metrics.engines[0].on_prompt_done(3, 120)
    assert value("vllm:request_params_n_sum") == 3
    assert value("vllm:request_max_num_generation_tokens_sum") == 120


def test_the_last_requests_are_told_newest_first(metrics: ServerMetrics) -> None:
    _run(metrics, [(0, 10, 3), (1000, 20, 40)])
    metrics.on_fault(FailureType.RATE_LIMIT, "cmpl-9", "alias")
    records = [record.to_json() for record in metrics.requests.newest(2)]
    assert records[0] | {"id": "cmpl-9", "model": "alias", "fault": "RateLimit", "finishReason": None} == records[0]
    assert records[1] == {
        "id": "r1",
        "model": "m",
        "endedAt": 1_790_470_234.5,
        "promptTokens": 20,
        "cachedTokens": 0,
        "completionTokens": 40,
        "foundRunning": None,
        "foundWaiting": None,
        "foundKvUsage": None,
        "queueSeconds": 0,
        "timeToFirstTokenSeconds": pytest.approx(0.1),
        "latencySeconds": pytest.approx(0.88),
        "finishReason": "length",
        "rank": 0,
        "fault": None,
    }
    for number in range(300):
        metrics.on_fault(FailureType.RATE_LIMIT, str(number))
    assert [record.id for record in metrics.requests.newest()] == [str(n) for n in range(299, 43, -1)]
    assert metrics.requests.total == 303


def test_faults_wakes_and_the_profile_are_told_under_our_own_names(metrics: ServerMetrics, value: Value) -> None:
    assert value("ghostfleet_faults_total", type="ServerError") == 0
    metrics.on_fault(FailureType.SERVER_ERROR)
    assert value("ghostfleet_faults_total", type="ServerError") == 1
    metrics.engines[0].on_wake(700)
    assert value("ghostfleet_wake_lateness_seconds_bucket", le="0.0005") == 0
    assert value("ghostfleet_wake_lateness_seconds_bucket", le="0.001") == 1
    metrics.set_profile(1, "sha256:a")
    metrics.set_profile(2, "sha256:b")
    assert value("ghostfleet_profile_info") == 1, "one series: the old one is gone"
    assert value("ghostfleet_profile_info", revision="2", hash="sha256:b") == 1
    assert value("ghostfleet_build_info") == 1


def test_http_requests_are_counted_by_route_and_class_of_status(metrics: ServerMetrics, value: Value) -> None:
    metrics.on_http("/v1/completions", "POST", 200, 120, 0, 0.2)
    metrics.on_http("/v1/completions", "POST", 201, 100, 0, 2.0)
    metrics.on_http("/v1/completions", "POST", 429, 10, 90, 0.001)
    metrics.on_http("none", "GET", 404, 0, 22, 0.001)
    route = {"handler": "/v1/completions", "method": "POST"}
    assert value("http_requests_total", **route, status="2xx") == 2
    assert value("http_requests_total", **route, status="4xx") == 1
    assert value("http_requests_total", handler="none") == 1
    assert value("http_request_size_bytes_sum", handler="/v1/completions") == 230
    assert value("http_response_size_bytes_sum", handler="/v1/completions") == 90
    assert value("http_response_size_bytes_count", handler="/v1/completions") == 3
    assert value("http_request_duration_seconds_bucket", **route, le="0.5") == 2
    assert value("http_request_duration_highr_seconds_count") == 4


def test_the_process_tells_of_itself(value: Value) -> None:
    cpu = time.process_time()
    assert value("process_cpu_seconds_total") == pytest.approx(cpu, rel=0.2, abs=0.2)
    assert value("process_resident_memory_bytes") > 10_000_000
    assert value("process_virtual_memory_bytes") > value("process_resident_memory_bytes")
    assert value("process_start_time_seconds") == pytest.approx(time.time() - 60, abs=3600)
    assert 3 <= value("process_open_fds") <= value("process_max_fds")
    assert value("python_info") == 1
    assert value("python_gc_collections_total", generation="0") > 0


class _OnlyCountable:
    def __len__(self) -> int:
        return 512


def test_a_step_of_many_sequences_costs_no_more_than_one_of_few(metrics: ServerMetrics) -> None:
    # The recorder may look at a token count, never at tokens: this stands in for a list and cannot be iterated.
    step = SimpleNamespace(
        tokens=_OnlyCountable(), gaps={20_000: 512}, prompt_tokens=0, cached_tokens=0, queried_tokens=0, preempted=0
    )
    metrics.engines[0].on_step(step, 0, 512, 0, 0, 0.5)  # type: ignore[arg-type]  # a step without iterable tokens
    assert metrics.totals()["generationTokens"] == 512
    assert sum(metrics.engines[0].measures.inter_token_latency.counts) == 512


def test_a_scrape_after_every_cell_moved_takes_well_under_a_millisecond(metrics: ServerMetrics) -> None:
    metrics.on_http("/v1/completions", "POST", 200, 1, 1, 0.1)
    taken = []
    for _ in range(60):
        _run(metrics, [(0, 10, 3)])
        begin = time.process_time()
        metrics.render()
        taken.append(time.process_time() - begin)
    assert sorted(taken)[30] < 0.001
