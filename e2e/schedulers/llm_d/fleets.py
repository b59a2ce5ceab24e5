"""The fleets in front of which the picker stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import yaml

from ghostfleet_operator.testing import Fleet

MODEL = "m"
ASK: dict[str, Any] = {"model": MODEL, "prompt": "Hi"}
LONG: dict[str, Any] = {**ASK, "max_tokens": 1000}
"""Keeps a server busy for more than a minute."""


def objects(**servers: Mapping[str, Any]) -> str:
    """Servers by name, of one model with room for 2,048 tokens, with a token in 100 ms."""
    return yaml.safe_dump_all(
        {
            "apiVersion": "ghostfleet.dev/v1alpha1",
            "kind": "SimulatedModelServer",
            "metadata": {"name": name},
            "spec": {
                "model": {"name": MODEL, "maxModelLen": 2048},
                "profile": {"simple": {"timeToFirstToken": "50ms", "interTokenLatency": "100ms"}},
                **spec,
            },
        }
        for name, spec in servers.items()
    )


def endpoint(fleet: Fleet, replica: str) -> str:
    """A replica as the picker says it, `host:port`."""
    return fleet.urls[replica].removeprefix("http://")


def endpoints(fleet: Fleet) -> set[str]:
    """All replicas, likewise."""
    return {endpoint(fleet, name) for name in fleet.urls}


def by_replica(fleet: Fleet, told: Mapping[str, float]) -> dict[str, float]:
    """What was said of endpoints, by the name of the replica."""
    return {name: told[endpoint(fleet, name)] for name in fleet.urls}


def send(host_port: str | None, body: Mapping[str, Any], path: str = "/v1/completions", **headers: str) -> Any:
    """The answer of a server in one piece."""
    answer = httpx.post(f"http://{host_port}{path}", json=body, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()
