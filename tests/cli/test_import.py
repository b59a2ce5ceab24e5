"""`ghostfleet import` as a person meets it: objects on standard output, the report beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tests.operator.llmd.manifests import RENDERER, simulator, workload

from ghostfleet_operator.local.objects import read
from ghostfleet_simulator.flags import load

GHOSTFLEET = Path(sys.executable).with_name("ghostfleet")


def run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GHOSTFLEET, "import", *words], capture_output=True, text=True, timeout=60, check=False, input=given
    )


def out(*words: str, given: str = "") -> list[dict[str, Any]]:
    result = run(*words, given=given)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def test_a_manifest(tmp_path: Path) -> None:
    manifest = yaml.safe_dump(workload(simulator("--model=m", "--mode=echo"), RENDERER))
    result = run("-", given=manifest)
    (tmp_path / "ours.yaml").write_text(result.stdout)
    (server,) = read([tmp_path]).resolved()
    assert server.config.answers.mode == "Echo"
    lines = result.stderr.splitlines()
    assert lines[0] == "-: Deployment sim:"
    assert "  translated: model" in lines
    assert any(line.startswith("  not needed: container vllm-render: ") for line in lines)


def test_strict_fails_where_something_is_not_the_same() -> None:
    assert run("--strict", "--", "--model=m", "--mode=echo").returncode == 1
    assert run("--strict", "--", "--model=m", "--time-to-first-token=1s", "--render-url=x").returncode == 0


def test_flags_are_a_server_named_after_its_model() -> None:
    profile, server = out("--", "--model", "Qwen/Qwen3-8B", "--time-to-first-token", "1s", "--max-num-seqs", "9")
    assert profile["spec"] == {"simple": {"timeToFirstToken": "1s"}}
    assert (server["metadata"], server["spec"]["scheduling"]["maxNumSeqs"]) == ({"name": "qwen3-8b"}, 9)
    assert out("--name", "n", "--namespace", "ns", "--", "--model", "m")[1]["metadata"] == {
        "name": "n",
        "namespace": "ns",
    }


def test_a_configuration_with_flags_over_it(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: m\nport: 8001\nmax-num-seqs: 5\ninter-token-latency: 20ms\n")
    assert out(str(file), "--", "--max-num-seqs=6")[1]["spec"]["scheduling"]["maxNumSeqs"] == 6
    (ours,) = out("--to", "config", str(file))
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump(ours))
    config = load(["--config", str(path)], {}).config
    assert (config.listen.port, config.profile.simple.inter_token_latency.us) == (8001, 20_000)


def test_a_body_of_its_admin_api_is_a_patch_for_ours() -> None:
    body = {"time-to-first-token": 1_500_000, "inter-token-latency": "0s", "failure-injection-rate": 50}
    body |= {"failure-types": ["rate_limit"], "fake-metrics": {"kv-cache-usage": 0.9}}
    result = run("-", given=json.dumps(body))
    assert json.loads(result.stdout) == {
        "profile": {"simple": {"timeToFirstToken": "1.5ms", "interTokenLatency": None}},
        "failures": [{"type": "RateLimit", "probability": "0.5"}],
        "fakeMetrics": {"vllm:kv_cache_usage_perc": "0.9"},
    }


def test_mistakes_are_lines() -> None:
    assert run().stderr == "ghostfleet import: give a file, or flags behind --\n"
    result = run("-", given="model: m\nblock-size: 7\n")
    assert (result.returncode, result.stderr) == (
        2,
        "ghostfleet import: block-size: 7 is not one of 8, 16, 32, 64, 128\n",
    )
    result = run("-", given='{"time-to-first-token": "x"}')
    assert (result.returncode, result.stderr.startswith("ghostfleet import: -: time-to-first-token: 'x' is not")) == (
        2,
        True,
    )
    assert run("/nowhere").stderr == "ghostfleet import: /nowhere: cannot be read: No such file or directory\n"
