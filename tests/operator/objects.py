"""Raw objects as a file or the API server gives them, for tests."""

from __future__ import annotations

from typing import Any

from ghostfleet_operator.kinds import API_VERSION, SimulatedModelServer, parse_profile, parse_server
from ghostfleet_operator.plan.replicas import ServerPlan, plan
from ghostfleet_operator.resolve import Resolved, resolve
from ghostfleet_simulator.document import Document

UID = "0d9ab2a4-5f0c-4c5a-9c54-2f2a3c1f7e11"


def raw_server(name: str = "alpha", **spec: Any) -> dict[str, Any]:
    """A server in namespace `lab` with an inline profile, unless `spec` says otherwise."""
    wanted = {"model": {"name": "org/model"}} | spec
    if not {"profile", "profileRef"} & spec.keys():
        wanted["profile"] = {"simple": {"timeToFirstToken": "200ms", "interTokenLatency": "20ms"}}
    metadata = {"name": name, "namespace": "lab", "uid": UID, "generation": 3}
    return {"apiVersion": API_VERSION, "kind": "SimulatedModelServer", "metadata": metadata, "spec": wanted}


def raw_profile(name: str = "mid-size", generation: int = 5, **simple: Any) -> dict[str, Any]:
    """A profile in namespace `lab`."""
    metadata = {"name": name, "namespace": "lab", "generation": generation}
    return {"apiVersion": API_VERSION, "kind": "LatencyProfile", "metadata": metadata, "spec": {"simple": simple}}


def raw_cluster_profile(name: str = "mid-size", generation: int = 5, **simple: Any) -> dict[str, Any]:
    """A profile of the cluster."""
    metadata = {"name": name, "generation": generation}
    return raw_profile(name, **simple) | {"kind": "ClusterLatencyProfile", "metadata": metadata}


def server(name: str = "alpha", **spec: Any) -> SimulatedModelServer:
    """The same, parsed."""
    return parse_server(raw_server(name, **spec))


def resolved(name: str = "alpha", **spec: Any) -> Resolved:
    """The same, resolved; a reference finds the profile of `raw_profile()`."""
    return resolve(server(name, **spec), lambda _, wanted: parse_profile(raw_profile(wanted, timeToFirstToken="50ms")))


def planned(name: str = "alpha", current: Document | None = None, floor: int = 0, **spec: Any) -> ServerPlan:
    """The same, planned."""
    return plan(resolved(name, **spec), current, floor)
