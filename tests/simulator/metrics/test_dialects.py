"""What a server of each dialect shows: what schedulers look for, nothing of vLLM's elsewhere, and the truth."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.simulator.metrics.scheduler import SPECS, Picture, read, series
from tests.simulator.metrics.test_cost import move

from ghostfleet_simulator.config import Dialect, ServerConfig
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.problems import InvalidInput, validated

OTHERS = [dialect for dialect in Dialect if dialect is not Dialect.VLLM]


class Clock:
    """Seconds that a test sets."""

    now = 1_790_470_234.5

    def __call__(self) -> float:
        return self.now


def metrics_of(dialect: Dialect, clock: Clock | None = None, **config: object) -> ServerMetrics:
    tree = {
        "model": {"name": "org/model", "servedNames": ["m"], "maxModelLen": 1024},
        "engine": {"dialect": dialect.value},
        "kvCache": {"blockSize": 32, "blocks": 101},
        **config,
    }
    return ServerMetrics(validated(ServerConfig, tree), now=clock or Clock())


def samples(metrics: ServerMetrics) -> dict[str, float]:
    """By name and the labels that are not the server's own, as text."""
    own = {"model_name", "engine_type", "tp_rank", "pp_rank", "moe_ep_rank", "model", "version", "engine"}
    return {
        name + "".join(f"{{{key}={value}}}" for key, value in labels.items() if key not in own): number
        for name, found in series(metrics.render().decode()).items()
        for labels, number in found
    }


def test_each_dialect_has_the_value_of_its_pod_label() -> None:
    """As llm-d's endpoint picker has them built in."""
    assert {dialect.engine_type for dialect in Dialect} == set(SPECS)


@pytest.mark.parametrize("dialect", Dialect)
def test_a_scheduler_reads_the_load(dialect: Dialect) -> None:
    """Under its names, with `# TYPE`, the first series of each family, whole numbers where it wants them."""
    metrics = metrics_of(dialect)
    metrics.engines[0].on_step(Step(), 0, running=7, waiting=2, deferred=1, kv_usage=0.25)
    picture = read(metrics.render().decode(), dialect.engine_type)
    if dialect is Dialect.TRITON:
        assert picture == Picture(3, 0, None, None, None)
    else:
        blocks = 101 if dialect is Dialect.VLLM else 100
        assert picture == Picture(3, 7, 0.25, 32, blocks)


@pytest.mark.parametrize("dialect", Dialect)
def test_values_that_are_whole_are_written_whole(dialect: Dialect) -> None:
    """Some scrapers read counts with integer parsers."""
    metrics = metrics_of(dialect)
    for number in range(1, 4):
        move(metrics, number)
    assert not re.findall(r"^.* \d+\.0$", metrics.render().decode(), re.MULTILINE)


@pytest.mark.parametrize("dialect", OTHERS)
def test_nothing_of_vllm_is_on_another_engine(dialect: Dialect) -> None:
    """None of its names, of its web framework's and of its process, whatever has happened; ours are there."""
    lora = {"adapters": [{"name": "a", "path": "/a"}]}
    tiers = {"blockSize": 32, "blocks": 101, "tiers": [{"medium": "CPU", "capacity": "1Gi"}]}
    metrics = metrics_of(dialect, lora=lora, kvCache=tiers)
    for number in range(1, 4):
        move(metrics, number)
    metrics.on_turned_away("max_num_queued_reqs")
    text = metrics.render().decode()
    assert not re.findall(r"^(?:# \w+ )?(?:vllm|http_|process_|python_)\S*", text, re.MULTILINE)
    assert "_created" not in text
    assert "ghostfleet_build_info" in text


@pytest.mark.parametrize("dialect", OTHERS)
def test_prometheus_reads_it(dialect: Dialect) -> None:
    """And every family has a line that says what it is."""
    metrics = metrics_of(dialect)
    move(metrics, 1)
    families = list(text_string_to_metric_families(metrics.render().decode()))
    assert len(families) >= 15
    assert all(family.documentation for family in families)


def test_what_sglang_tells_of_a_request() -> None:
    """Tokens when it ends, cached ones by where they were, waiting and first token in its own buckets."""
    metrics = metrics_of(Dialect.SGLANG)
    move(metrics, 3)  # 40 tokens of which 16 were cached; 10 tokens of an answer
    found = samples(metrics)
    assert found["sglang:prompt_tokens_total"] == 40
    assert found["sglang:generation_tokens_total"] == 10
    assert found["sglang:cached_tokens_total{cache_source=device}"] == 16
    assert found["sglang:num_requests_total"] == 1
    assert found["sglang:realtime_tokens_total{mode=prefill_compute}"] == 24
    assert found["sglang:cache_hit_rate"] == 0.4
    assert found["sglang:num_retracted_requests_total"] == 1
    text = metrics.render().decode()
    assert 'sglang:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 1\n' in text
    assert 'sglang:e2e_request_latency_seconds_count{model_name="m"} 1\n' in text
    assert 'sglang:cache_config_info{num_pages="100",page_size="32"} 1\n' in text


def test_sglang_tells_how_fast_it_generates() -> None:
    """Tokens by the time since the gauge last changed, at least a second, however often it is read; 0 at rest."""
    clock = Clock()
    metrics = metrics_of(Dialect.SGLANG, clock)
    seen = []
    for tenth in range(1, 61):
        clock.now = Clock.now + tenth / 10
        if tenth <= 30:
            metrics.engines[0].measures.generation_tokens.value += 5
        seen.append(samples(metrics)["sglang:gen_throughput"])
    assert seen[8] == 0
    assert seen[10] == pytest.approx(50)
    assert seen[25] == pytest.approx(50)
    assert seen[-1] == 0


def test_what_trtllm_serve_tells_of_the_cache() -> None:
    """In blocks."""
    metrics = metrics_of(Dialect.TENSORRT_LLM)
    move(metrics, 3)
    metrics.engines[0].on_step(Step(), 0, running=1, waiting=0, deferred=0, kv_usage=0.25)
    found = samples(metrics)
    assert found["trtllm_kv_cache_used_blocks"] == 25
    assert found["trtllm_kv_cache_free_blocks"] == 75
    assert found["trtllm_kv_cache_hit_rate"] == 0.4
    assert found["trtllm_request_success_total{finished_reason=length}"] == 1
    assert found["trtllm_num_requests_completed_total"] == 1
    assert found["trtllm_prompt_cached_tokens_total"] == 16


def test_what_triton_tells_of_a_request() -> None:
    """Counters under their bare names, times in microseconds."""
    for dialect in (Dialect.TRITON, Dialect.TRITON_TENSORRT_LLM):
        metrics = metrics_of(dialect)
        move(metrics, 3)
        found = samples(metrics)
        assert found["nv_inference_request_success"] == found["nv_inference_exec_count"] == 1
        assert found["nv_inference_request_duration_us"] == 27_000
        assert found["nv_inference_queue_duration_us"] == 1_500
        assert found["nv_inference_request_failure{reason=CANCELED}"] == 0
    assert found["nv_trt_llm_request_metrics{request_type=active}"] == 6
    assert found["nv_trt_llm_inflight_batcher_metrics{inflight_batcher_specific_metric=generation_requests}"] == 3


@pytest.mark.parametrize(
    ("dialect", "series_name", "read_as"),
    [
        (Dialect.SGLANG, "sglang:num_queue_reqs", "waiting"),
        (Dialect.TENSORRT_LLM, "trtllm_num_requests_waiting", "waiting"),
        (Dialect.TRITON_TENSORRT_LLM, 'nv_trt_llm_request_metrics{request_type="waiting"}', "waiting"),
        (Dialect.TRITON, "nv_inference_pending_request_count", "waiting"),
    ],
)
def test_a_series_of_any_dialect_can_be_faked(dialect: Dialect, series_name: str, read_as: str) -> None:
    """What is worked out of others as well; in whole numbers where it counts requests."""
    clock = Clock()
    metrics = metrics_of(dialect, clock)
    metrics.fake({series_name: "ramp:0:10:10s"})
    metrics.engines[0].on_step(Step(), 0, running=1, waiting=2, deferred=0, kv_usage=0.5)
    clock.now += 4.55
    assert getattr(read(metrics.render().decode(), dialect.engine_type), read_as) == 4
    metrics.fake({})
    assert getattr(read(metrics.render().decode(), dialect.engine_type), read_as) == 2


def test_a_series_of_another_dialect_cannot_be_faked() -> None:
    """It is not there."""
    with pytest.raises(InvalidInput, match="there is no such metric"):
        metrics_of(Dialect.SGLANG).fake({"vllm:num_requests_waiting": "1"})
