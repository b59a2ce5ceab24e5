"""A manifest of llm-d-inference-sim, imported, runs on a laptop and is what it was."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import yaml
from tests.operator.llmd.manifests import RENDERER, beside, simulator, workload

from .conftest import COMMAND, FleetProcess, until

MakeFleet = Callable[[str], FleetProcess]
MANIFEST = [
    beside("Service", "front", selector={"app": "food"}, ports=[{"port": 80, "targetPort": 8000}]),
    workload(
        simulator(
            *("--model=food-review", "--mode=echo", "--max-loras=2", "--lora-modules", '{"name": "spicy"}'),
            *("--time-to-first-token=5ms", "--inter-token-latency=0.1ms", "--prefill-time-per-token=4us"),
            *("--force-dummy-tokenizer", "--failure-injection-rate=0", ""),
        ),
        RENDERER,
        name="food",
        replicas=2,
    ),
]


def test_an_imported_manifest_runs(make_fleet: MakeFleet) -> None:
    imported = subprocess.run(
        [*COMMAND, "import", "-"],
        input=yaml.safe_dump_all(MANIFEST),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    fleet = make_fleet(imported.stdout)
    fleet.start()
    replicas = fleet.replicas()
    assert sorted(replicas) == ["food-0", "food-1"]
    for replica in replicas.values():
        with httpx.Client(base_url=replica["url"], timeout=20) as client:
            assert client.get("/health/ready").status_code == 200
            assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["food-review", "spicy"]
            prompt = "a prompt that is a good deal longer than the sixteen tokens which a completion has by itself"
            for model in ("food-review", "spicy"):
                answer = client.post("/v1/completions", json={"model": model, "prompt": prompt}).json()
                assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (prompt, "stop")
            told: dict[str, Any] = client.get("/admin/config").json()
            assert (told["inter-token-latency"], told["prefill-time-per-token"]) == ("100µs", "4µs")
            changed = client.post(
                "/admin/config", json={"failure-injection-rate": 100, "failure-types": ["server_error"]}
            )
            assert changed.status_code == 200
            assert client.post("/v1/completions", json={"model": "spicy", "prompt": "x"}).status_code == 503
    fleet.edit("interTokenLatency: 100us", "interTokenLatency: 7ms")
    until(lambda: fleet.settled(revision=2), "both replicas run the new profile")
    for replica in fleet.replicas().values():
        assert httpx.get(f"{replica['url']}/admin/config").json()["inter-token-latency"] == "7ms"
