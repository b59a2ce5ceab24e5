"""The families of a vLLM 0.33 server, typed in by hand from what such servers expose: a new one must be meant."""

from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ghostfleet_simulator.config import KVCache, ModelSettings, ServerConfig
from ghostfleet_simulator.metrics.cache_config import cache_config
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.metrics.render import CONTENT_TYPE
from ghostfleet_simulator.metrics.vllm import token_bounds

_LATENCY = "0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 240.0 480.0 960.0 1920.0 7680.0"
_TTFT = "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0 640.0 2560.0"
_ITL = "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0"
_ITERATION = "1.0 8.0 16.0 32.0 64.0 128.0 256.0 512.0 1024.0 2048.0 4096.0 8192.0 16384.0"
_TOKENS = "1.0 2.0 5.0 10.0 20.0 50.0 100.0 200.0 500.0 1000.0 2000.0"  # up to the 4096 of the fixture

_GAUGES: dict[str, list[dict[str, str]]] = {
    "vllm:num_requests_running": [{}],
    "vllm:num_requests_waiting": [{}],
    "vllm:num_requests_waiting_by_reason": [{"reason": "capacity"}, {"reason": "deferred"}],
    "vllm:engine_sleep_state": [{"sleep_state": s} for s in ("awake", "weights_offloaded", "discard_all")],
    "vllm:kv_cache_usage_perc": [{}],
}
_COUNTERS: dict[str, list[dict[str, str]]] = {
    "vllm:prefix_cache_queries": [{}],
    "vllm:prefix_cache_hits": [{}],
    "vllm:external_prefix_cache_queries": [{}],
    "vllm:external_prefix_cache_hits": [{}],
    "vllm:mm_cache_queries": [{}],
    "vllm:mm_cache_hits": [{}],
    "vllm:num_preemptions": [{}],
    "vllm:prompt_tokens": [{}],
    "vllm:prompt_tokens_by_source": [
        {"source": s} for s in ("local_compute", "local_cache_hit", "external_kv_transfer")
    ],
    "vllm:prompt_tokens_cached": [{}],
    "vllm:prompt_tokens_cached_by_source": [
        {"source": s} for s in ("device", "host", "p2p", "disk", "external_unspecified")
    ],
    "vllm:generation_tokens": [{}],
    "vllm:request_success": [{"finished_reason": r} for r in ("stop", "length", "abort", "error", "repetition")],
}
_HISTOGRAMS = {
    "vllm:request_prompt_tokens": _TOKENS,
    "vllm:request_generation_tokens": _TOKENS,
    "vllm:iteration_tokens_total": _ITERATION,
    "vllm:request_max_num_generation_tokens": _TOKENS,
    "vllm:request_params_n": "1.0 2.0 5.0 10.0 20.0",
    "vllm:request_params_max_tokens": _TOKENS,
    "vllm:request_num_preemptions": "1.0 2.0 3.0 4.0 5.0 10.0 20.0",
    "vllm:time_to_first_token_seconds": _TTFT,
    "vllm:inter_token_latency_seconds": _ITL,
    "vllm:request_time_per_output_token_seconds": _ITL,
    "vllm:e2e_request_latency_seconds": _LATENCY,
    "vllm:request_queue_time_seconds": _LATENCY,
    "vllm:request_inference_time_seconds": _LATENCY,
    "vllm:request_prefill_time_seconds": _LATENCY,
    "vllm:request_decode_time_seconds": _LATENCY,
    "vllm:request_prefill_kv_computed_tokens": _TOKENS,
}
_CACHE_CONFIG = """
    engine block_size user_specified_block_size kv_cache_layout prefix_match_unit gpu_memory_utilization cache_dtype
    is_attention_free num_gpu_blocks_override sliding_window enable_prefix_caching prefix_caching_hash_algo
    prefix_cache_retention_interval kv_cache_dtype_skip_layers mamba_page_size_padded skip_page_size_padded
    mamba_block_size mamba_cache_dtype mamba_ssm_cache_dtype mamba_cache_mode enable_mamba_shared_prefix_checkpoint
    replayssm_buffer_len use_replayssm use_kda_recoverssm num_gpu_blocks num_cpu_blocks simple_cpu_offload_num_blocks
    effective_attention_block_size kv_cache_size_tokens kv_cache_max_concurrency hash_block_size
    cache_hit_alignment_tokens kv_sharing_fast_prefill swa_bounded_replay kv_cache_memory_bytes kv_offloading_size
    kv_offloading_backend _block_size_resolved
"""
_HTTP_AND_PROCESS = {
    "http_requests",
    "http_request_size_bytes",
    "http_response_size_bytes",
    "http_request_duration_highr_seconds",
    "http_request_duration_seconds",
    *("python_gc_objects_collected", "python_gc_objects_uncollectable", "python_gc_collections", "python_info"),
    *("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds"),
    *("process_cpu_seconds", "process_open_fds", "process_max_fds"),
}
_OWN = {
    "ghostfleet_build_info",
    "ghostfleet_profile_info",
    "ghostfleet_faults",
    "ghostfleet_wake_lateness_seconds",
}


def _families(metrics: ServerMetrics) -> dict[str, prometheus_client.Metric]:
    families = list(text_string_to_metric_families(metrics.render().decode()))
    assert len({family.name for family in families}) == len(families), "a family is there once"
    return {family.name: family for family in families}


def test_no_family_is_missing_and_none_is_too_many(metrics: ServerMetrics) -> None:
    names = {name for name in _families(metrics) if not name.endswith("_created")}
    engine = {*_GAUGES, *_COUNTERS, *_HISTOGRAMS, "vllm:cache_config_info", "vllm:admission_rejections"}
    assert names == engine | _HTTP_AND_PROCESS | _OWN


@pytest.mark.parametrize(("name", "series"), [*_GAUGES.items(), *_COUNTERS.items()])
def test_every_gauge_and_counter_is_there_at_zero_before_the_first_request(
    metrics: ServerMetrics, name: str, series: list[dict[str, str]]
) -> None:
    family = _families(metrics)[name]
    assert family.type == ("gauge" if name in _GAUGES else "counter")
    suffix = "" if name in _GAUGES else "_total"
    assert {sample.name for sample in family.samples} == {name + suffix}
    assert [sample.labels for sample in family.samples] == [
        {"model_name": "m", "engine": "0", **labels} for labels in series
    ]
    awake = {"sleep_state": "awake"}
    assert [sample.value for sample in family.samples] == [float(labels == awake) for labels in series]


def test_refusals_are_there_at_zero_and_name_no_engine(metrics: ServerMetrics) -> None:
    """They are made before an engine is chosen."""
    samples = _families(metrics)["vllm:admission_rejections"].samples
    assert [(sample.labels, sample.value) for sample in samples] == [
        ({"model_name": "m", "reason": reason}, 0.0) for reason in ("max_num_queued_reqs", "max_num_queued_tokens")
    ]


@pytest.mark.parametrize(("name", "bounds"), _HISTOGRAMS.items())
def test_every_histogram_is_there_with_vllms_buckets(metrics: ServerMetrics, name: str, bounds: str) -> None:
    family = _families(metrics)[name]
    assert family.type == "histogram"
    buckets = [sample for sample in family.samples if sample.name == f"{name}_bucket"]
    assert [sample.labels["le"] for sample in buckets] == [*bounds.split(), "+Inf"]
    assert {sample.name for sample in family.samples} == {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    assert all(sample.labels["model_name"] == "m" and sample.labels["engine"] == "0" for sample in family.samples)
    assert all(sample.value == 0 for sample in family.samples)


def test_counters_and_histograms_have_their_time_of_creation(metrics: ServerMetrics) -> None:
    families = _families(metrics)
    for name in (*_COUNTERS, *_HISTOGRAMS):
        assert {sample.value for sample in families[f"{name}_created"].samples} == {1_790_470_234.5}
    assert not any(f"{name}_created" in families for name in _GAUGES)


def test_the_switch_of_prometheus_client_leaves_the_times_of_creation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_DISABLE_CREATED_SERIES", "True")
    assert b"_created" not in ServerMetrics(ServerConfig(model=ModelSettings(name="m"))).render()


def test_the_cache_is_described_in_labels_as_schedulers_read_it(metrics: ServerMetrics) -> None:
    (sample,) = _families(metrics)["vllm:cache_config_info"].samples
    assert sample.value == 1
    assert "model_name" not in sample.labels
    assert (sample.labels["block_size"], sample.labels["num_gpu_blocks"]) == ("16", "16384")
    assert set(sample.labels) == set(_CACHE_CONFIG.split())


def test_the_cache_size_is_computed_as_vllm_does() -> None:
    # A real server with 43 blocks, of which the longest sequence of 16384 tokens takes 27, told these two.
    cache = KVCache(block_size=608, blocks=43, enable_prefix_caching=False)
    config = ServerConfig(model=ModelSettings(name="m", max_model_len=16384), kv_cache=cache)
    labels = cache_config(config, "3")
    assert labels["kv_cache_max_concurrency"] == "1.5925925925925926"
    assert labels["kv_cache_size_tokens"] == "26093"
    assert labels["engine"] == "3"
    assert (labels["user_specified_block_size"], labels["num_gpu_blocks_override"]) == ("True", "43")
    assert labels["enable_prefix_caching"] == "False"
    assert cache_config(ServerConfig(model=ModelSettings(name="m")), "0")["enable_prefix_caching"] == "True"
    # A document spells every default out, and that is not the user's choice.
    spelled_out = ServerConfig(model=ModelSettings(name="m"), kv_cache=KVCache(block_size=16, blocks=16384))
    labels = cache_config(spelled_out, "0")
    assert (labels["user_specified_block_size"], labels["num_gpu_blocks_override"]) == ("False", "None")


@pytest.mark.parametrize(
    ("longest", "bounds"), [(16, (1, 2, 5, 10)), (20, (1, 2, 5, 10, 20)), (99, (1, 2, 5, 10, 20, 50))]
)
def test_token_buckets_go_up_to_the_length_of_the_model(longest: int, bounds: tuple[int, ...]) -> None:
    assert token_bounds(longest) == bounds


def test_the_content_type_is_prometheus_clients() -> None:
    assert CONTENT_TYPE == prometheus_client.CONTENT_TYPE_LATEST


def test_two_servers_in_a_process_share_nothing() -> None:
    one, other = (ServerMetrics(ServerConfig(model=ModelSettings(name=name))) for name in ("a", "b"))
    one.engines[0].on_prompt_done(1, 10)
    assert 'request_params_n_count{engine="0",model_name="a"} 1' in one.render().decode()
    assert 'request_params_n_count{engine="0",model_name="b"} 0' in other.render().decode()
