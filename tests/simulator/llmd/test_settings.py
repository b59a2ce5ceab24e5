"""Types, defaults and rules of llm-d-inference-sim's settings, from the contract."""

from __future__ import annotations

from typing import Any

import pytest

from ghostfleet_simulator.llmd.settings import SETTINGS, Fate, LlmdSettings
from ghostfleet_simulator.problems import InvalidInput, validated

HOT = {
    *("time-to-first-token", "time-to-first-token-std-dev", "inter-token-latency", "inter-token-latency-std-dev"),
    *("kv-cache-transfer-latency", "kv-cache-transfer-latency-std-dev", "prefill-overhead", "prefill-time-per-token"),
    *("prefill-time-std-dev", "kv-cache-transfer-time-per-token", "kv-cache-transfer-time-std-dev"),
    *("time-factor-under-load", "latency-calculator", "time-to-generate-image", "time-to-generate-image-std-dev"),
    *("image-emission-rate", "failure-injection-rate", "failure-types", "fake-metrics"),
}
DEFAULTS = {
    "port": 8000,
    "max-num-seqs": 5,
    "max-waiting-queue-length": 1000,
    "max-loras": 1,
    "max-model-len": 1024,
    "mode": "random",
    "time-factor-under-load": 1.0,
    "fake-metrics-refresh-interval": "100ms",
    "tool-call-extra-call-probability": 45,
    "enable-kvcache": False,
    "kv-cache-size": 1024,
    "block-size": 16,
    "zmq-endpoint": "tcp://127.0.0.1:5557",
    "kv-events-replay-queue-size": 1024,
    "event-batch-size": 16,
    "data-parallel-size": 1,
    "data-parallel-rank": -1,
    "dataset-table-name": "llmd",
    "render-url": "http://localhost:8082",
    "render-timeout": "30s",
    "mm-render-timeout": "1m0s",
    "default-embedding-dimensions": 384,
    "max-request-body-size-mb": 4,
}


def test_defaults() -> None:
    told = LlmdSettings(model="m").model_dump(mode="json", by_alias=True)
    assert {name: told[name] for name in DEFAULTS} == DEFAULTS


def test_what_its_admin_api_changes() -> None:
    assert {name for name, setting in SETTINGS.items() if setting.hot} == HOT


def test_whatever_does_not_mean_the_same_says_why() -> None:
    for setting in SETTINGS.values():
        assert setting.becomes.field or setting.becomes.fate in (Fate.NEEDLESS, Fate.MISSING), setting.name
        assert setting.becomes.why or setting.becomes.fate is Fate.SAME, setting.name


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"model": ""}, "model"),
        ({"mode": "parrot"}, "mode"),
        ({"port": 0}, "port"),
        ({"inter-token-latency": "-1ms"}, "inter-token-latency"),
        ({"inter-token-latency": "10ms", "inter-token-latency-std-dev": "4ms"}, "inter-token-latency-std-dev"),
        ({"time-to-first-token": "10ms", "time-to-first-token-std-dev": "3001us"}, "time-to-first-token-std-dev"),
        ({"kv-cache-transfer-latency-std-dev": "1ns"}, "kv-cache-transfer-latency-std-dev"),
        ({"time-to-generate-image-std-dev": "1ns"}, "time-to-generate-image-std-dev"),
        ({"prefill-overhead": "-1ns"}, "prefill-overhead"),
        ({"time-factor-under-load": 0.99}, "time-factor-under-load"),
        ({"max-loras": 0}, "max-loras"),
        ({"max-loras": 3, "max-cpu-loras": 2}, "max-cpu-loras"),
        ({"max-model-len": 0}, "max-model-len"),
        ({"max-num-seqs": 0}, "max-num-seqs"),
        ({"max-waiting-queue-length": -1}, "max-waiting-queue-length"),
        ({"lora-modules": [{"name": ""}]}, "lora-modules[0].name"),
        ({"lora-modules": [{"name": "a", "base_model_name": "other"}]}, "lora-modules"),
        ({"max-tool-call-integer-param": -1}, "max-tool-call-integer-param"),
        ({"min-tool-call-array-param-length": -1}, "min-tool-call-array-param-length"),
        ({"tool-call-extra-call-probability": 101}, "tool-call-extra-call-probability"),
        ({"block-size": 24}, "block-size"),
        ({"kv-cache-size": -1}, "kv-cache-size"),
        ({"event-batch-size": 0}, "event-batch-size"),
        ({"kv-events-replay-endpoint": "tcp://*:1", "kv-events-replay-queue-size": 0}, "kv-events-replay-queue-size"),
        ({"kv-events-replay-endpoint": "tcp://*:5558", "data-parallel-size": 2}, "kv-events-replay-endpoint"),
        ({"failure-injection-rate": 101}, "failure-injection-rate"),
        ({"failure-types": ["teapot"]}, "failure-types[0]"),
        ({"data-parallel-size": 9}, "data-parallel-size"),
        ({"data-parallel-rank": 8}, "data-parallel-rank"),
        ({"ssl-certfile": "c"}, "ssl-certfile"),
        ({"self-signed-certs": True, "ssl-certfile": "c", "ssl-keyfile": "k"}, "self-signed-certs"),
        ({"dataset-url": "http://x"}, "dataset-path"),
        ({"dataset-path": "p", "mode": "echo"}, "dataset-path"),
        ({"latency-calculator": "linear"}, "latency-calculator"),
        ({"global-cache-hit-threshold": 1.5}, "global-cache-hit-threshold"),
        ({"default-embedding-dimensions": 0}, "default-embedding-dimensions"),
        ({"max-request-body-size-mb": 513}, "max-request-body-size-mb"),
        ({"fake-metrics": {}, "fake-metrics-refresh-interval": "0s"}, "fake-metrics-refresh-interval"),
    ],
)
def test_what_it_refuses_is_refused(wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validated(LlmdSettings, {"model": "m", **wrong})
    assert [problem.path for problem in refused.value.problems] == [path]


@pytest.mark.parametrize(
    "right",
    [
        {"time-to-first-token": "10ms", "time-to-first-token-std-dev": "3ms"},
        {"prefill-overhead": "10ms", "prefill-time-std-dev": "1s"},
        {"kv-cache-transfer-time-std-dev": "200us"},
        {"lora-modules": [{"name": "a", "path": "/p", "base_model_name": "m"}]},
        {"data-parallel-rank": 7},
        {"failure-injection-rate": 0},
        {"fake-metrics": None},
        {"max-loras": 2, "max-cpu-loras": 0},
    ],
)
def test_what_it_takes_is_taken(right: dict[str, Any]) -> None:
    validated(LlmdSettings, {"model": "m", **right})
