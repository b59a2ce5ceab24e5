"""Adapters: what `vllm:lora_requests_info` makes of a server for a request, exactly, and live."""

from __future__ import annotations

from typing import Any

import httpx

from e2e.conftest import until
from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import until_gauge
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import LONG, by_replica, endpoint, objects, send
from ghostfleet_operator.testing.plugin import StartFleet

ADAPTERS = {
    "replicas": 2,
    "http": {"allowRuntimeLoraUpdating": True},
    "lora": {"enabled": True, "maxLoras": 2, "adapters": [{"name": name} for name in "abc"]},
}


def of(adapter: str) -> dict[str, Any]:
    return {**LONG, "model": adapter}


def test_adapters_are_scores(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """1 where it runs, 0.8 where there is room for it, 0 where all slots are taken by others.

    The picker has 0.6 for an adapter that waits, which vLLM 0.33 tells nobody of before its request runs.
    """
    fleet = ghostfleet_fleet(objects(alpha=ADAPTERS))
    first, second = fleet.urls["alpha-0"], fleet.urls["alpha-1"]
    # Like vLLM, a server tells nothing of adapters before its first step.
    send(endpoint(fleet, "alpha-1"), LONG | {"max_tokens": 1})
    picker = start(fleet.endpoints_file, "lora-affinity-scorer")

    def scored(adapter: str) -> dict[str, float]:
        return by_replica(fleet, picker.scores(of(adapter)))

    with Busy((first, of("a")), (first, of("b"))):
        until("a runs on the first", lambda: scored("a") == {"alpha-0": 1, "alpha-1": 0.8})
        until("b runs, too", lambda: scored("b") == {"alpha-0": 1, "alpha-1": 0.8})
        assert scored("c") == {"alpha-0": 0, "alpha-1": 0.8}
        assert picker.spread(of("a"), 20) == {endpoint(fleet, "alpha-0"): 20}
        assert picker.spread(of("c"), 20) == {endpoint(fleet, "alpha-1"): 20}
        with Busy((first, of("c"))):
            until_gauge(first, "vllm:num_requests_waiting", 1)
            assert scored("c") == {"alpha-0": 0, "alpha-1": 0.8}
        with Busy((second, of("c"))):
            until("c runs on the second", lambda: scored("c") == {"alpha-0": 0, "alpha-1": 1})


def test_an_adapter_that_was_loaded_at_run_time_is_one_of_them(ghostfleet_fleet: StartFleet, start: Start) -> None:
    fleet = ghostfleet_fleet(objects(alpha=ADAPTERS))
    picker = start(fleet.endpoints_file, "lora-affinity-scorer")
    url = fleet.urls["alpha-1"]
    loaded = httpx.post(
        f"{url}/v1/load_lora_adapter", json={"lora_name": "new", "lora_path": "/new"}, timeout=60, trust_env=False
    )
    assert loaded.status_code == 200, loaded.text
    with Busy((url, of("new"))):
        until("it runs there", lambda: by_replica(fleet, picker.scores(of("new")))["alpha-1"] == 1)
        assert picker.spread(of("new"), 20) == {endpoint(fleet, "alpha-1"): 20}
