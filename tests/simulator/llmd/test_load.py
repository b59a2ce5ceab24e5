"""Command lines and files as people have them for llm-d-inference-sim, and the servers that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ghostfleet_simulator.flags import LoadedConfig
from ghostfleet_simulator.llmd.load import load, side_channel_port
from ghostfleet_simulator.problems import InvalidInput

POD = {"POD_IP": "10.1.2.3", "POD_NAME": "p", "POD_NAMESPACE": "ns"}
ALWAYS = {
    "engine": {"version": "0.19"},
    "http": {"llmdSimRoutes": True, "allowRuntimeLoraUpdating": True},
    "api": {"completionsToTheEnd": True, "enablePromptTokensDetails": True, "enableAutoToolChoice": True},
    "failureHeaders": True,
    "kvTransfer": {"kvConnector": "NixlConnector", "kvRole": "kv_both", "kvLoadFailurePolicy": "recompute"},
}


def loaded(*argv: str, **environ: str) -> LoadedConfig:
    return load(argv, environ)


def differing(config: LoadedConfig) -> dict[str, Any]:
    """What is neither a default of ours nor the same for all of its command lines."""
    tree = config.config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert tree["kvTransfer"].pop("sideChannelPort") == side_channel_port(config.config.listen.port)
    for block, fields in ALWAYS.items():
        assert tree.pop(block) == fields
    del tree["seed"]
    assert tree["listen"].pop("shutdownTimeoutSeconds") == 30
    assert tree["lora"].pop("enabled") is True
    assert tree["model"].pop("multimodal") is True
    return {block: fields for block, fields in tree.items() if fields}


def refused(*argv: str, **environ: str) -> list[str]:
    with pytest.raises(InvalidInput) as error:
        load(argv, environ)
    return [str(problem) for problem in error.value.problems]


def test_defaults_are_its_own() -> None:
    found = loaded("--model", "m")
    assert not found.warnings
    assert differing(found) == {
        "model": {"name": "m", "maxModelLen": 1024},
        "scheduling": {"maxNumSeqs": 5, "maxNumBatchedTokens": 5120, "maxWaitingRequests": 1000},
        "kvCache": {"enablePrefixCaching": False, "blocks": 1025, "hashSeed": "0"},
    }


def test_a_server_that_only_encodes() -> None:
    found = loaded("--model", "m", "--mm-encoder-only")
    assert not found.warnings
    assert differing(found)["model"] == {"name": "m", "maxModelLen": 1024, "encoderOnly": True}


def test_a_server_for_the_load_of_a_scheduler() -> None:
    """Durations of 0.1us, a context of a million tokens, empty elements."""
    argv = ["--model", "org/large", "--port", "8000", "--max-model-len", "1000000", "--max-num-seqs", "256"]
    argv += [
        "--max-waiting-queue-length",
        "2048",
        "--inter-token-latency",
        "0.1ms",
        "--prefill-time-per-token",
        "0.1us",
    ]
    argv += ["--prefill-overhead", "5ms", "--enable-kvcache", "--enable-prefix-caching", "--kv-cache-size", "1000000"]
    argv += ["--block-size", "16", "--force-dummy-tokenizer", "--max-request-body-size-mb", "10", "--v", "4", ""]
    found = loaded(*argv, **POD)
    assert differing(found) == {
        "model": {"name": "org/large", "maxModelLen": 1_000_000},
        "scheduling": {"maxNumSeqs": 256, "maxNumBatchedTokens": 1_048_576, "maxWaitingRequests": 2048},
        "kvCache": {"blocks": 1_000_001, "hashSeed": "0"},
        "kvEvents": {
            "enableKvCacheEvents": True,
            "endpoint": "tcp://127.0.0.1:5557",
            "topic": "kv@$(POD_IP):$(PORT)@org/large",
        },
        "profile": {"simple": {"interTokenLatency": "100us", "prefillTimePerToken": "100ns", "prefillOverhead": "5ms"}},
    }
    assert found.options.log_level == "debug"
    assert found.config.profile.simple.prefill_time_per_token.ns == 100


def test_a_decode_server_behind_a_sidecar() -> None:
    argv = ["--mode=echo", "--enable-kvcache=true", "--kv-cache-size=1024", "--block-size=16"]
    argv += ["--zmq-endpoint=tcp://epp.ns.svc.cluster.local:5557", "--port=8200", "--model=food-review"]
    argv += ["--render-url=http://vllm-render:8082", ""]
    found = loaded(*argv, **POD, PYTHONHASHSEED="42", PORT="8200")
    assert differing(found) == {
        "model": {"name": "food-review", "maxModelLen": 1024},
        "listen": {"port": 8200},
        "scheduling": {"maxNumSeqs": 5, "maxNumBatchedTokens": 5120, "maxWaitingRequests": 1000},
        "kvCache": {"blocks": 1025, "hashSeed": "42"},
        "kvEvents": {
            "enableKvCacheEvents": True,
            "endpoint": "tcp://epp.ns.svc.cluster.local:5557",
            "topic": "kv@$(POD_IP):$(PORT)@food-review",
        },
        "answers": {"mode": "Echo"},
    }


def test_adapters_failures_and_fake_metrics() -> None:
    fakes = {
        "running-requests": 16,
        "waiting-requests": "oscillate:0:5:1s",
        "kv-cache-usage": 0.3,
        "loras": [{"running": "a,b", "waiting": "c", "timestamp": 7}],
        "ttft-buckets-values": [10, 20],
    }
    argv = ["--model", "m", "--served-model-name", "x", "y", "--max-loras", "2", "--max-cpu-loras", "5"]
    argv += ["--lora-modules", '{"name":"a","path":"/a"}', '{"name":"b"}', "--fake-metrics", json.dumps(fakes)]
    argv += ["--failure-injection-rate", "10", "--failure-types", "rate_limit", "server_error"]
    assert differing(loaded(*argv)) == {
        "model": {"name": "m", "servedNames": ["x", "y"], "maxModelLen": 1024},
        "scheduling": {"maxNumSeqs": 5, "maxNumBatchedTokens": 5120, "maxWaitingRequests": 1000},
        "kvCache": {"enablePrefixCaching": False, "blocks": 1025, "hashSeed": "0"},
        "lora": {"maxLoras": 2, "maxCpuLoras": 5, "adapters": [{"name": "a", "path": "/a"}, {"name": "b"}]},
        "failures": [
            {"type": "RateLimit", "probability": "0.05"},
            {"type": "ServerError", "probability": "0.05"},
        ],
        "fakeMetrics": {
            "vllm:num_requests_running": "16",
            "vllm:num_requests_waiting": "oscillate:0:5:1s",
            "vllm:kv_cache_usage_perc": "0.3",
            'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"}': "7",
            "vllm:time_to_first_token_seconds": "[10, 20]",
        },
    }


def test_the_rest_of_what_has_a_counterpart() -> None:
    argv = [
        "--model=m",
        "--startup-duration=30s",
        "--enable-sleep-mode=true",
        "--enable-request-id-headers",
        "--seed=7",
    ]
    argv += ["--latency-calculator=per-token", "--time-factor-under-load=2.0", "--kv-cache-transfer-time-per-token=3us"]
    argv += ["--enable-kvcache", "--use-vllm-map-event-format", "--kv-events-replay-endpoint=tcp://*:5558"]
    argv += ["--kv-events-replay-queue-size=9", "--max-model-len=8", "--kv-cache-size=0", "--block-size=8"]
    config = loaded(*argv, **POD, VLLM_SERVER_DEV_MODE="1").config
    assert config.lifecycle.ready_after.seconds == 30
    assert config.lifecycle.startup_duration.ns == 0
    assert (config.http.development_mode, config.api.enable_request_id_headers, config.seed) == (True, True, 7)
    assert config.profile.simple.latency_calculator == "PerToken"
    assert (str(config.profile.simple.time_factor_under_load), config.engine.version) == ("2", "0.24")
    assert config.profile.simple.kv_cache_transfer_time_per_token.us == 3
    assert (config.kv_events.replay_endpoint, config.kv_events.buffer_steps) == ("tcp://*:5558", 9)
    assert (config.model.max_model_len, config.kv_cache.blocks) == (16, 3)


def test_ranks_have_ports_of_their_own_or_are_processes() -> None:
    config = loaded("--model=m", "--data-parallel-size=3").config
    assert (list(config.ranks), config.data_parallel_port_per_rank) == ([0, 1, 2], True)
    config = loaded("--model=m", "--data-parallel-rank=1", "--port=8001").config
    assert (list(config.ranks), config.data_parallel_port_per_rank, config.listen.port) == ([1], False, 8001)


def test_sleep_needs_the_variable_too() -> None:
    found = loaded("--model=m", "--enable-sleep-mode")
    assert not found.config.http.development_mode
    assert any("VLLM_SERVER_DEV_MODE" in warning for warning in found.warnings)


def test_without_a_seed_chance_is_new_each_time() -> None:
    assert loaded("--model=m").config.seed != loaded("--model=m").config.seed


def test_every_flag_that_means_something_else_is_told() -> None:
    argv = ["--model=m", "--render-url=http://r", "--log-http", "--tensor-parallel-size=8", "--dataset-path=d"]
    assert [warning.partition(":")[0] for warning in loaded(*argv).warnings] == [
        "--log-http",
        "--render-url",
        "--dataset-path",
        "--tensor-parallel-size",
    ]


# --- where settings come from ------------------------------------------------------------------------


FILE = """
port: 8001
model: "org/model"
served-model-name:
- one
- two
max-loras: 2
lora-modules:
- '{"name":"l1","path":"/l1"}'
time-to-first-token: "2000ms"
inter-token-latency: 50
enable-kvcache: false
global-cache-hit-threshold: 0.5
hash-seed: "9"
fake-metrics:
  totalprompttokens: 5
  loras:
  - '{"running":"l1","waiting":"","timestamp":3}'
max-num-sequences: 3
"""


def test_its_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    found = loaded("--config", str(path), "--max-loras=1")
    config = found.config
    assert (config.listen.port, config.model.name, config.model.served_names) == (8001, "org/model", ("one", "two"))
    assert (config.lora.max_loras, config.lora.adapters[0].path) == (1, "/l1")
    assert config.profile.simple.time_to_first_token.seconds == 2
    assert config.profile.simple.inter_token_latency.seconds == 0.05
    assert config.fake_metrics["vllm:prompt_tokens_total"] == "5"
    told = "\n".join(found.warnings)
    assert "inter-token-latency: 50 has no unit" in told
    assert "max-num-sequences: unknown, and overlooked as in llm-d-inference-sim; did you mean 'max-num-seqs'?" in told


def test_a_flag_comes_before_a_variable_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: file\nhash-seed: file\nport: 1234\n")
    argv = ["--config", str(path)]
    environ = {"SIM_MODEL": "variable", "PYTHONHASHSEED": "variable"}
    config = load(argv, environ).config
    assert (config.model.name, config.kv_cache.hash_seed, config.listen.port) == ("variable", "variable", 1234)
    config = load([*argv, "--model=flag", "--hash-seed=flag"], environ).config
    assert (config.model.name, config.kv_cache.hash_seed) == ("flag", "flag")
    config = load(argv, {"SIM_MODEL": "", "GHOSTFLEET_PORT": "99", "GHOSTFLEET_ADMIN_PORT": "9101"}).config
    assert (config.model.name, config.listen.port, config.listen.admin_port) == ("file", 1234, 9101)


def test_flags_of_ours_may_stand_among_its_own() -> None:
    found = loaded(
        "--model=m", "--admin-port", "9101", "--host", "127.0.0.1", "--vllm-version=0.33", "--log-format=json"
    )
    assert (found.config.listen.admin_port, found.config.listen.host) == (9101, "127.0.0.1")
    assert (found.config.engine.version, found.options.log_format) == ("0.33", "json")


# --- what is wrong -----------------------------------------------------------------------------------


def test_what_is_wrong_is_told_where_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: m\nblock-size: 7\n")
    assert refused() == ["--model: required, but not given"]
    assert refused("--config", str(path)) == [f"{path}: block-size: 7 is not one of 8, 16, 32, 64, 128"]
    assert refused("--config", str(tmp_path / "none")) == [
        f"{tmp_path}/none: cannot be read: No such file or directory"
    ]
    assert refused("--model=m", "--max-num-seq=3") == ["--max-num-seq: unknown flag; did you mean --max-num-seqs?"]
    assert refused("--model=m", "--enable-kvcache")[0].startswith("POD_IP: must be set")
    assert refused("--model=m", "--enable-kvcache", "--zmq-endpoint=x", **POD)[0].startswith("--zmq-endpoint: 'x'")
    assert refused("--model=m", "--fake-metrics", '{"running": 1}')[0].startswith("--fake-metrics: running: unknown")
    assert refused("--model=m", "--lora-modules", '{"name": "m"}')[0].startswith("--lora-modules: ")


@pytest.mark.parametrize("flags", [["--self-signed-certs"], ["--ssl-certfile=c", "--ssl-keyfile=k"]])
def test_plain_text_is_not_served_where_tls_is_wanted(flags: list[str]) -> None:
    assert refused("--model=m", *flags) == [f"{flags[0].partition('=')[0]}: there is no TLS; put a proxy in front"]
