"""A real server paces by the profile in force, and follows it through every backend while it streams."""

from __future__ import annotations

import json
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml
from tests.served import free_port

from .conftest import GHOSTFLEET, Serve

BACKENDS: dict[str, dict[str, Any]] = {
    "Simple": {"simple": {"timeToFirstToken": "10ms", "interTokenLatency": "10ms"}},
    "StepTime": {"stepTime": {"baseUs": 30_000}},
    "Roofline": {
        "roofline": {"model": "Llama-3.1-8B", "gpu": "L4", "overheads": {"layerUs": 0, "stepUs": 0, "seqUs": 0}}
    },
    "Table": {
        "table": {
            "prefill": [{"tokens": 1, "time": "20ms"}],
            "decode": [{"sequences": 1, "context": 1, "time": "20ms"}],
        }
    },
}
GAPS = {"Simple": 0.010, "StepTime": 0.030, "Roofline": 0.055, "Table": 0.020}
"""Seconds between two tokens; 15 GB at 300 GB/s and 91 % of it are 55 ms."""


def times(lines: Any, tokens: int) -> list[float]:
    """Arrival times of the next `tokens` chunks with text."""
    found = []
    while len(found) < tokens:
        line = next(lines)
        if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["finish_reason"] is None:
            found.append(time.monotonic())
    return found


def test_a_stream_follows_the_backend_through_all_of_them(serve: Serve) -> None:
    """The gaps are those of the backend in force, and the stream has exactly the tokens asked for."""
    server = serve("--max-model-len", "4096")
    order = ["Simple", "StepTime", "Simple", "Roofline", "Table", "StepTime", "Simple"]
    request = {"model": "m", "prompt": "Once", "max_tokens": 20 * len(order), "ignore_eos": True, "stream": True}
    request["stream_options"] = {"include_usage": True}

    def use(backend: str) -> None:
        patch = {"profile": {"backend": backend, **BACKENDS[backend]}}
        answer = httpx.patch(f"{server.admin_url}/admin/config", json=patch)
        assert answer.status_code == 200, answer.text

    use(order[0])
    with httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=30) as response:
        lines = response.iter_lines()
        for backend in order:
            use(backend)
            at = times(lines, 19)[4:]  # what was due before the change still comes at its time
            gap = median(b - a for a, b in pairwise(at))
            assert min(GAPS, key=lambda name: abs(GAPS[name] - gap)) == backend, f"{gap} s with {backend}"
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert rest[-1]["usage"]["completion_tokens"] == 20 * len(order)


def test_a_file_may_hold_any_backend_and_a_wrong_one_is_told_in_a_line(serve: Serve, tmp_path: Path) -> None:
    """Five steps of 30 ms for five tokens; what cannot be used ends the process with code 2 and names the field."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"profile": {"backend": "StepTime", **BACKENDS["StepTime"]}}))
    server = serve("--config", str(config))
    request = {"model": "m", "prompt": "Once", "max_tokens": 5, "ignore_eos": True}
    began = time.monotonic()
    assert httpx.post(f"{server.url}/v1/completions", json=request).json()["usage"]["completion_tokens"] == 5
    assert 0.15 <= time.monotonic() - began < 3
    for wrong, words in (
        ({"profile": {"backend": "Roofline"}}, "profile.roofline: required with the backend Roofline"),
        (
            {"profile": {"simple": {"interTokenLatency": "4ms"}}, "clock": {"compression": 100}},
            "clock.compression: 100 leaves 40us between two tokens",
        ),
    ):
        config.write_text(yaml.safe_dump(wrong))
        command = [GHOSTFLEET, "serve", "--model", "m", "--host", "127.0.0.1", "--port", str(free_port())]
        command += ["--config", str(config)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 2
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
