"""What stands beside the servers in the same documents: kept as it is, put right, or found to be in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ghostfleet_operator.kinds import API_VERSION
from ghostfleet_operator.llmd.containers import objects_in
from ghostfleet_operator.llmd.report import Report, Verdict
from ghostfleet_operator.llmd.servers import Server, annotations_kept
from ghostfleet_operator.resolve import PORT

_SUFFIXES: Final = ("", "-headless")
"""What the operator appends to a server's name for its Services."""


def kept(raw: dict[str, Any], place: str, servers: Sequence[Server], report: Report) -> dict[str, Any] | None:
    """The document as it should stand beside the servers; None where the operator makes such an object itself."""
    match raw.get("kind"):
        case "Service":
            return _service(raw, place, servers, report)
        case "InferencePool":
            _pool(raw, place, servers, report)
    return _scaled(raw, place, servers, report)


def _namespace(raw: Mapping[str, Any]) -> str:
    return str((raw.get("metadata") or {}).get("namespace") or "")


def _selected(selector: object, raw: Mapping[str, Any], servers: Sequence[Server]) -> list[Server]:
    """The servers whose pods a selector finds."""
    if not isinstance(selector, Mapping) or not selector:
        return []
    return [
        server
        for server in servers
        if server.namespace == _namespace(raw) and selector.items() <= server.labels.items()
    ]


def _service(raw: dict[str, Any], place: str, servers: Sequence[Server], report: Report) -> dict[str, Any] | None:
    spec = raw.get("spec") or {}
    name = str((raw.get("metadata") or {}).get("name"))
    found = _selected(spec.get("selector"), raw, servers)
    for server in servers:
        if server.namespace == _namespace(raw) and name in [server.name + suffix for suffix in _SUFFIXES]:
            networking: dict[str, Any] = {}
            if spec.get("type") in ("NodePort", "LoadBalancer"):
                networking["serviceType"] = spec["type"]
            if annotations := annotations_kept(raw.get("metadata") or {}, place, report):
                networking["serviceAnnotations"] = annotations
            if networking:
                server.spec["networking"] = networking
            ports = [port.get("port") for port in objects_in(spec.get("ports"))]
            differs = "" if ports == [PORT] else f"; it has port {PORT} and not {', '.join(map(str, ports))}"
            verdict = Verdict.CHECK if differs else Verdict.TRANSLATED
            report.add(place, verdict, f"the operator makes a Service of this name{differs}")
            return None
    for server in found:
        for port in objects_in(spec.get("ports")):
            target = port.get("targetPort", port.get("port"))
            if target != "http" and target not in server.ports:
                report.add(place, Verdict.CHECK, f"targetPort {target}: pods of {server.name} have {_listed(server)}")
    return raw


def _listed(server: Server) -> str:
    return "the port " + ", ".join(map(str, server.ports))


def _pool(raw: Mapping[str, Any], place: str, servers: Sequence[Server], report: Report) -> None:
    spec = raw.get("spec") or {}
    selector = spec.get("selector") or {}
    labels = selector.get("matchLabels") if isinstance(selector, Mapping) else None
    found = _selected(labels, raw, servers)
    targets = [port.get("number") for port in objects_in(spec.get("targetPorts"))] or [spec.get("targetPortNumber")]
    for server in found:
        report.add(place, Verdict.TRANSLATED, f"its selector finds the pods of {server.name}")
        for target in targets:
            if target not in server.ports:
                report.add(place, Verdict.CHECK, f"target port {target}: pods of {server.name} have {_listed(server)}")


def _scaled(raw: dict[str, Any], place: str, servers: Sequence[Server], report: Report) -> dict[str, Any]:
    """An autoscaler of a workload, turned to the server that the workload is now."""
    spec = raw.get("spec")
    target = spec.get("scaleTargetRef") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(target, Mapping):
        return raw
    for server in servers:
        same = (target.get("kind", "Deployment"), target.get("name")) == (server.was, server.name)
        if same and server.namespace == _namespace(raw):
            report.add(place, Verdict.TRANSLATED, f"it scales SimulatedModelServer {server.name}")
            server.spec.pop("replicas", None)  # the autoscaler's
            new = {**target, "apiVersion": API_VERSION, "kind": "SimulatedModelServer"}
            return {**raw, "spec": {**spec, "scaleTargetRef": new}}
    return raw
