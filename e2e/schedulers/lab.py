"""The pool that endpoint pickers choose from here: three servers, in a cluster or on this machine.

`cluster.py` has it as users have it: pods, an InferencePool that the operator made, a picker that runs as a pod.
`laptop.py` has the same on this machine: a fleet of processes, which an API server without nodes takes for pods.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from e2e.conftest import Object, until
from e2e.ext_proc.picker import Picker

POOL: Final = "lab"
MODEL: Final = "lab"
SLOTS: Final = 4
ADAPTERS: Final = ("adapter-a", "adapter-b", "adapter-c")
_LABELS: Final = {"app": "lab"}
ARGUMENTS: Final = (
    "--secure-serving=false",
    "--tracing=false",
    "--metrics-endpoint-auth=false",
    # Endpoints are read ten times a second, half as often as by default: machines that run these tests are small.
    "--refresh-metrics-interval=100ms",
    "--refresh-prometheus-metrics-interval=200ms",
)
"""Flags of every picker."""


def server(name: str, **spec: Any) -> Object:
    """A server of the pool: a token in 100 ms, four slots, 256 blocks of 16 tokens."""
    return {
        "apiVersion": "ghostfleet.dev/v1alpha1",
        "kind": "SimulatedModelServer",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": "ghostfleet/lab", "servedNames": [MODEL], "maxModelLen": 2048},
            "profile": {"simple": {"timeToFirstToken": "50ms", "interTokenLatency": "100ms"}},
            "scheduling": {"maxNumSeqs": SLOTS},
            "kvCache": {"blocks": 257},
            "api": {"enablePromptTokensDetails": True},
            "pod": {"labels": _LABELS, "terminationGracePeriodSeconds": 5},
            **spec,
        },
    }


ALPHA: Final = server(
    "alpha",
    replicas=2,
    lora={"enabled": True, "maxLoras": 2, "adapters": [{"name": name} for name in ADAPTERS]},
    networking={"inferencePool": {"name": POOL, "selector": {"matchLabels": _LABELS}}},
)
"""Two pods with adapters; it owns the pool of all three."""
BETA: Final = server("beta")
"""One pod without adapters."""


@dataclass(frozen=True)
class Pod:
    """One server of the pool as a scheduler and its clients know it."""

    name: str
    uid: str
    """Tells one that was restarted from the one before."""
    endpoint: str
    """`host:port`, as a picker says it."""
    url: str
    """Base URL of its API."""
    server: str


class Lab(ABC):
    """The pool, its pods, and the pickers that are asked."""

    @abstractmethod
    def pods(self) -> list[Pod]:
        """Those that are Ready and stay, that of beta last."""

    @abstractmethod
    def change(self, server: str, **spec: Any) -> None:
        """Put fields over those of a server's spec; returns when its servers run it."""

    @abstractmethod
    def kill(self, pod: Pod) -> None:
        """End it without a warning."""

    @abstractmethod
    def having(self, obj: Object) -> AbstractContextManager[None]:
        """The pool's namespace with an object, until the block ends."""

    @abstractmethod
    def picker(self, name: str, config: Mapping[str, Any]) -> AbstractContextManager[RunningPicker]:
        """The endpoint picker of the pool with a configuration, until the block ends; it knows all pods."""

    def until_idle(self) -> None:
        """Wait until three servers serve and none of them has a request."""
        until("three pods", lambda: len(self.pods()) == 3, 120)
        for pod in self.pods():
            for name in ("running", "waiting"):
                until_gauge(pod.url, f"vllm:num_requests_{name}", 0, 0)


@dataclass(frozen=True)
class RunningPicker(Picker):
    """One that runs, and tells what it knows of the pool."""

    url: str
    """Base URL of its metrics."""

    def until(self, fact: str, low: float, high: float | None = None) -> None:
        """Wait until what it knows of the pool (`ready_pods`, `average_queue_size`, ...) is between two values."""
        most = low if high is None else high
        until_gauge(self.url, f"inference_pool_{fact}", low - 1e-6, most + 1e-6)


def gauge(url: str, name: str) -> float | None:
    """Value of the first series of a metric, if there is one."""
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).raise_for_status().text
    found = re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def until_gauge(url: str, name: str, low: float, high: float = float("inf")) -> None:
    """Wait until a metric is between two values."""

    def is_between() -> bool:
        value = gauge(url, name)
        return value is not None and low <= value <= high

    until(f"{name} of {url} from {low} to {high}", is_between)


def scoring(*plugins: str, **scorers: float) -> dict[str, Any]:
    """A configuration that goes by these scorers, names with `_` for `-`, by weight; `plugins` are others they need."""
    names = {name.replace("_", "-"): weight for name, weight in scorers.items()}
    return {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": name} for name in (*plugins, *names)],
        "schedulingProfiles": [
            {"name": "default", "plugins": [{"pluginRef": name, "weight": weight} for name, weight in names.items()]}
        ],
    }
