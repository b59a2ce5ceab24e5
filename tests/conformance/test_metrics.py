"""Sections 2 and 5 of vLLM's contract: metrics, and what of the scheduler they show."""

from __future__ import annotations

import threading
import time

from .conftest import CHAT, Vllm

GENERATION_ENDED = 'finished_reason="length"'


def moved(vllm: Vllm, before: dict[str, float], name: str) -> float:
    """By how much the series of this name moved, all labels taken together."""
    after = vllm.metrics()
    return sum(value - before[sample] for sample, value in after.items() if sample.split("{")[0] == name)


def test_content_type(plain: Vllm) -> None:
    """8: /metrics is prometheus_client's text, whatever is asked for."""
    expected = "text/plain; version=1.0.0; charset=utf-8"
    assert plain.get("/metrics", Accept="application/openmetrics-text").headers["content-type"] == expected


def test_labels(plain: Vllm) -> None:
    """2: every engine metric has model_name and engine, but for those the contract names."""
    for sample in plain.metrics():
        name = sample.split("{")[0]
        if name.startswith("vllm:") and name != "vllm:cache_config_info" and "admission_rejections" not in name:
            if "tool_call_parser" not in name:
                assert 'engine="0"' in sample, sample
            assert 'model_name="m"' in sample, sample


def test_zero_from_the_start(narrow: Vllm) -> None:
    """2: every counter is there at 0 before the first request, all five finish reasons included."""
    for reason in ("stop", "length", "abort", "error", "repetition"):
        assert narrow.value("vllm:request_success_total", finished_reason=reason) >= 0
    for name in ("prompt_tokens", "generation_tokens", "num_preemptions", "prefix_cache_queries", "prefix_cache_hits"):
        assert narrow.value(f"vllm:{name}_total") >= 0


def test_removed_metrics_are_absent(plain: Vllm) -> None:
    """2: what older versions had is gone."""
    names = {sample.split("{")[0] for sample in plain.metrics()}
    for gone in (
        "gpu_cache_usage_perc",
        "num_requests_swapped",
        "time_per_output_token_seconds",
        "request_params_best_of",
    ):
        assert not any(name.startswith(f"vllm:{gone}") for name in names)


def test_counters_of_a_request(plain: Vllm) -> None:
    """2: prompt and generation tokens, successes, and one observation in each per-request histogram."""
    before = plain.metrics()
    plain.completion([7] * 20, max_tokens=6, ignore_eos=True)
    assert moved(plain, before, "vllm:prompt_tokens_total") == 20
    assert moved(plain, before, "vllm:prompt_tokens_by_source_total") == 20
    assert moved(plain, before, "vllm:generation_tokens_total") == 6
    assert moved(plain, before, "vllm:request_success_total") == 1
    for name in (
        *("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"),
        *("request_prefill_time_seconds", "request_decode_time_seconds", "request_inference_time_seconds"),
        *("request_prompt_tokens", "request_generation_tokens", "request_max_num_generation_tokens"),
        *("request_params_max_tokens", "request_params_n", "request_num_preemptions"),
        *("request_prefill_kv_computed_tokens", "request_time_per_output_token_seconds"),
    ):
        assert moved(plain, before, f"vllm:{name}_count") == 1, name
    assert moved(plain, before, "vllm:inter_token_latency_seconds_count") == 5


def test_several_answers_of_a_request(plain: Vllm) -> None:
    """8: n children each count as a success; request_params_n is observed once."""
    before = plain.metrics()
    plain.completion([7] * 20, n=3, max_tokens=2, ignore_eos=True)
    assert moved(plain, before, "vllm:request_success_total") == 3
    assert moved(plain, before, "vllm:request_params_n_count") == 1
    assert moved(plain, before, "vllm:request_params_n_sum") == 3


def test_refused_requests_are_not_counted(plain: Vllm) -> None:
    """2: a request that is refused touches no engine metric, but http_requests_total with its class of status."""
    before = plain.metrics()
    plain.chat(temperature=9)
    assert moved(plain, before, "vllm:request_success_total") == 0
    failed = f'http_requests_total{{handler="{CHAT}",method="POST",status="4xx"}}'
    assert plain.metrics()[failed] == before.get(failed, 0) + 1


def test_uncounted_paths(plain: Vllm) -> None:
    """2: /metrics, /health, /load, /ping and /version are not counted; unknown paths are under `none`."""
    before = plain.metrics()
    for path in ("/health", "/load", "/ping", "/version", "/metrics"):
        plain.get(path)
    assert moved(plain, before, "http_request_duration_highr_seconds_count") == 0
    plain.get("/nowhere")
    assert any('handler="none"' in sample for sample in plain.metrics())


def test_buckets(plain: Vllm) -> None:
    """2: the bounds of the families of buckets."""
    samples = plain.metrics()

    def bounds(name: str) -> list[str]:
        return [sample.split('le="')[1].split('"')[0] for sample in samples if sample.startswith(f"{name}_bucket")]

    assert bounds("vllm:inter_token_latency_seconds") == (
        [
            "0.01",
            "0.025",
            "0.05",
            "0.075",
            "0.1",
            "0.15",
            "0.2",
            "0.3",
            "0.4",
            "0.5",
            "0.75",
            "1.0",
            "2.5",
            "5.0",
            "7.5",
            "10.0",
            "20.0",
            "40.0",
            "80.0",
            "+Inf",
        ]
    )
    assert bounds("vllm:time_to_first_token_seconds")[:4] == ["0.001", "0.005", "0.01", "0.02"]
    assert bounds("vllm:e2e_request_latency_seconds")[-2:] == ["7680.0", "+Inf"]
    assert bounds("vllm:request_prompt_tokens") == [
        "1.0",
        "2.0",
        "5.0",
        "10.0",
        "20.0",
        "50.0",
        "100.0",
        "200.0",
        "500.0",
        "+Inf",
    ]
    assert bounds("vllm:iteration_tokens_total")[-2:] == ["16384.0", "+Inf"]


def test_cache_config(plain: Vllm) -> None:
    """2, 8: cache_config_info is 1 and tells block size and number of blocks in labels, without model_name."""
    [info] = [sample for sample in plain.metrics() if sample.startswith("vllm:cache_config_info")]
    assert 'block_size="16"' in info
    assert "num_gpu_blocks=" in info
    assert "model_name" not in info


def test_sleep_state(plain: Vllm) -> None:
    """2: engine_sleep_state begins with awake at 1 and the others at 0."""
    assert plain.value("vllm:engine_sleep_state", sleep_state="awake") == 1
    assert plain.value("vllm:engine_sleep_state", sleep_state="weights_offloaded") == 0
    assert plain.value("vllm:engine_sleep_state", sleep_state="discard_all") == 0


def test_queue_and_its_limit(narrow: Vllm) -> None:
    """2, 5, 1c: two run, others wait for capacity; beyond the limit 503, counted; the gauges fall to 0 at the end."""
    before = narrow.metrics()
    request = {"max_tokens": 200, "ignore_eos": True}
    threads = [threading.Thread(target=narrow.chat, kwargs=request) for _ in range(3)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while narrow.value("vllm:num_requests_running") != 2 or narrow.value("vllm:num_requests_waiting") != 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert narrow.value("vllm:num_requests_waiting_by_reason", reason="capacity") == 1
    assert narrow.value("vllm:num_requests_waiting_by_reason", reason="deferred") == 0
    assert 0 < narrow.value("vllm:kv_cache_usage_perc") <= 1
    for stream in (False, True):
        response = narrow.chat(stream=stream)
        assert response.status_code == 503
        assert response.json()["error"] == {
            "message": "The engine is currently busy and cannot accept new requests. Please try again later or on a "
            "different instance.",
            "type": "Service Unavailable",
            "param": None,
            "code": 503,
        }
    assert narrow.value("vllm:admission_rejections_total", reason="max_num_queued_reqs") == 2
    for thread in threads:
        thread.join()
    narrow.served.until(running=0)
    assert narrow.value("vllm:num_requests_running") == 0
    assert narrow.value("vllm:kv_cache_usage_perc") == 0
    assert moved(narrow, before, "vllm:request_success_total") == 3


def test_a_client_that_leaves(narrow: Vllm) -> None:
    """1e: a request that its client abandoned counts as no success and in no latency histogram."""
    narrow.served.until(running=0, waiting=0)
    before = narrow.metrics()
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 1000, "ignore_eos": True}
    with narrow.client.stream("POST", CHAT, json=body) as response:
        next(response.iter_lines())
    narrow.served.until(running=0, kvUsage=0.0)
    assert moved(narrow, before, "vllm:request_success_total") == 0
    assert moved(narrow, before, "vllm:e2e_request_latency_seconds_count") == 0
    assert moved(narrow, before, "vllm:prompt_tokens_total") > 0
