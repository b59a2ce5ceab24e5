"""The fake metrics of llm-d-inference-sim (`--fake-metrics`, one JSON object) as those of a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ghostfleet_simulator.problems import InvalidInput, Problem, nearest

_VALUES: Final = {
    "running-requests": "vllm:num_requests_running",
    "waiting-requests": "vllm:num_requests_waiting",
    "kv-cache-usage": "vllm:kv_cache_usage_perc",
    "total-prompt-tokens": "vllm:prompt_tokens_total",
    "total-generation-tokens": "vllm:generation_tokens_total",
    "prefix-cache-hits": "vllm:prefix_cache_hits_total",
    "prefix-cache-queries": "vllm:prefix_cache_queries_total",
}
_HISTOGRAMS: Final = {
    "ttft-buckets-values": "vllm:time_to_first_token_seconds",
    "tpot-buckets-values": "vllm:inter_token_latency_seconds",
    "e2erl-buckets-values": "vllm:e2e_request_latency_seconds",
    "queue-time-buckets-values": "vllm:request_queue_time_seconds",
    "inf-time-buckets-values": "vllm:request_inference_time_seconds",
    "prefill-time-buckets-values": "vllm:request_prefill_time_seconds",
    "decode-time-buckets-values": "vllm:request_decode_time_seconds",
    "request-tpot-buckets-values": "vllm:request_time_per_output_token_seconds",
    "request-prompt-tokens": "vllm:request_prompt_tokens",
    "request-generation-tokens": "vllm:request_generation_tokens",
    "request-params-max-tokens": "vllm:request_params_max_tokens",
    "request-max-generation-tokens": "vllm:request_max_num_generation_tokens",
}
_SUCCESS: Final = "request-success-total"
_LORAS: Final = "loras"
_SPELT: Final = {"totalprompttokens": "total-prompt-tokens", "totalgenerationtokens": "total-generation-tokens"}
"""How its files have to spell two of its keys."""
_FOREIGN_REASONS: Final = frozenset({"tool_calls", "remote_decode", "cache_threshold"})
"""Finish reasons that only llm-d-inference-sim counts."""


def fake_metrics(raw: Mapping[str, Any], source: str, max_loras: int = 1) -> dict[str, str]:
    """The `fakeMetrics` that say the same; raises `InvalidInput`, its paths beginning with `source`.

    Adapters are written as objects or, as in its files, as the JSON of objects.
    """
    fakes: dict[str, str] = {}
    problems = []
    for key, value in raw.items():
        path = f"{source}: {key}"
        if value is None:
            continue
        try:
            fakes |= _one(_SPELT.get(key, key), value, max_loras)
        except (TypeError, KeyError, AttributeError, ValueError):
            problems.append(Problem(path, f"{value!r} is not of the form that llm-d-inference-sim has there"))
        except LookupError as error:
            problems.append(Problem(path, str(error)))
    if problems:
        raise InvalidInput(problems)
    return fakes


def _one(key: str, value: Any, max_loras: int) -> dict[str, str]:
    if key in _VALUES:
        return {_VALUES[key]: str(value)}
    if key in _HISTOGRAMS:
        return {_HISTOGRAMS[key]: "[" + ", ".join(map(str, value)) + "]"}
    if key == _SUCCESS:
        return {
            f'vllm:request_success_total{{finished_reason="{reason}"}}': str(count)
            for reason, count in value.items()
            if reason not in _FOREIGN_REASONS
        }
    if key == _LORAS:
        return dict(_adapters(json.loads(lora) if isinstance(lora, str) else lora, max_loras) for lora in value)
    guess = nearest(key, [*_VALUES, *_HISTOGRAMS, _SUCCESS, _LORAS])
    raise IndexError("unknown" + (f"; did you mean {guess!r}?" if guess else ""))


def _adapters(lora: Mapping[str, Any], max_loras: int) -> tuple[str, str]:
    labels = {
        "max_lora": lora.get("max_lora", max_loras),
        "running_lora_adapters": lora["running"],
        "waiting_lora_adapters": lora["waiting"],
    }
    told = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"vllm:lora_requests_info{{{told}}}", str(lora["timestamp"])
