"""A workload whose pods run llm-d-inference-sim as a `SimulatedModelServer` with a `LatencyProfile`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ghostfleet_operator.kinds import API_VERSION, parse_profile, parse_server
from ghostfleet_operator.kinds.pod import RESERVED_PREFIX
from ghostfleet_operator.kinds.server import ROLE_LABEL, Role
from ghostfleet_operator.llmd.containers import Container, Maps, find, judge_others, objects_in
from ghostfleet_operator.llmd.report import Report, Verdict
from ghostfleet_operator.resolve import PORT
from ghostfleet_simulator.llmd.load import Read, read
from ghostfleet_simulator.llmd.settings import Fate
from ghostfleet_simulator.llmd.translate import tree_of
from ghostfleet_simulator.problems import InvalidInput, Problem

_WORKLOADS: Final = ("Deployment", "StatefulSet", "ReplicaSet", "Pod")
_VERDICTS: Final = {
    Fate.SAME: Verdict.TRANSLATED,
    Fate.CLOSE: Verdict.APPROXIMATED,
    Fate.NEEDLESS: Verdict.NOT_NEEDED,
    Fate.MISSING: Verdict.DROPPED,
}
_COPIED: Final = (
    *("nodeSelector", "tolerations", "priorityClassName"),
    *("terminationGracePeriodSeconds", "imagePullSecrets"),
)
_SPREADING: Final = "topologySpreadConstraints"
_SPREAD: Final = {"topologyKey", "maxSkew", "whenUnsatisfiable"}
_OPERATORS: Final = {
    **dict.fromkeys(("restartPolicy", "containers", "initContainers", "volumes"), ""),
    **dict.fromkeys(("securityContext", "serviceAccountName", "automountServiceAccountToken"), "the operator's"),
}
_ROLES: Final = {role.label: role for role in Role if role.label}
_SPLIT: Final = {"prefill", "decode", "both"}
"""Of the parts of a role's label: those of servers that do one leg of a request."""
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_IN_CONTAINER: Final = frozenset(
    {"name", "image", "imagePullPolicy", "command", "args", "env", "envFrom", "ports", "resources", "volumeMounts"}
) | set(_PROBES)
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was made of a workload or a command line."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    """Labels of its pods."""
    ports: tuple[int, ...]
    """Ports that its pods listen on."""
    was: str
    """Kind of the workload that it was; empty for a command line."""
    spec: dict[str, Any]
    profile: dict[str, Any]

    def documents(self) -> Iterator[dict[str, Any]]:
        """The server and its profile. Raises `InvalidInput`."""
        metadata = {"name": self.name, **({"namespace": self.namespace} if self.namespace else {})}
        profile = {"apiVersion": API_VERSION, "kind": "LatencyProfile", "metadata": metadata, "spec": self.profile}
        server = {"apiVersion": API_VERSION, "kind": "SimulatedModelServer", "metadata": metadata, "spec": self.spec}
        try:
            parse_profile(profile)
            parse_server(server)
        except InvalidInput as error:
            place = f"SimulatedModelServer {self.name}"
            raise InvalidInput(
                Problem(f"{place}: {p.path}" if p.path else place, p.message) for p in error.problems
            ) from None
        yield profile
        yield server


def is_workload(raw: Mapping[str, Any]) -> bool:
    """Whether a document makes pods that could be servers."""
    return raw.get("kind") in _WORKLOADS


def pod_of(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Metadata and spec of the pods that a workload makes."""
    pod = raw if raw.get("kind") == "Pod" else _below(raw, "spec", "template")
    return _below(pod, "metadata"), _below(pod, "spec")


def _below(raw: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in path:
        value = raw.get(key)
        raw = value if isinstance(value, Mapping) else {}
    return raw


def server_of(raw: Mapping[str, Any], place: str, maps: Maps, report: Report, wanted: str | None) -> Server:
    """The server that a workload with the simulator's container is. Raises `InvalidInput`."""
    metadata, pod = pod_of(raw)
    mine = find(pod, wanted)
    assert mine is not None  # noqa: S101 - the caller has looked
    container = Container(mine, place, maps, report)
    arguments = container.arguments()
    # The operator sets POD_IP in every pod.
    found = read(arguments, container.environ | {"POD_IP": "0.0.0.0"}, container.file(arguments, pod.get("volumes")))  # noqa: S104
    tell(found, place, report)
    spec, profile = blocks_of(found)
    labels = _labels(metadata, place, report)
    others = dict(labels)
    if role := _ROLES.get(labels.get(ROLE_LABEL, "")):
        spec["role"] = role.value
        del others[ROLE_LABEL]
    if _SPLIT & set(labels.get(ROLE_LABEL, "").split("-")):
        text = "prefill and decode: servers fetch KV cache from each other for real; see docs/disaggregation.md"
        report.add(place, Verdict.APPROXIMATED, text)
    annotations = annotations_kept(metadata, place, report)
    own = _below(raw, "metadata")
    spec["pod"] = {
        **({"labels": others} if others else {}),
        **({"annotations": annotations} if annotations else {}),
        **_compute(mine, place, report),
        **{key: pod[key] for key in _COPIED if pod.get(key)},
        **_spreading(pod, place, report),
    }
    if not spec["pod"]:
        del spec["pod"]
    replicas = _below(raw, "spec").get("replicas")
    if isinstance(replicas, int) and raw["kind"] != "Pod":
        spec["replicas"] = replicas
    name = str(own.get("name", ""))
    spec["profileRef"] = {"name": name}
    _tell_of_the_pod(pod, mine, place, report)
    judge_others(pod, mine, place, report)
    endpoint = spec.get("kvEvents", {}).get("endpoint", "")
    if any(host in endpoint for host in ("//127.", "//localhost:")):
        text = (
            f"kvEvents.endpoint {endpoint} reaches nobody outside of the pod; schedulers can subscribe to tcp://*:5557"
        )
        report.add(place, Verdict.CHECK, text)
    if found.settings.port != PORT:
        report.add(place, Verdict.CHECK, f"port {found.settings.port}: pods of the operator listen on {PORT}")
    ranks = found.settings.data_parallel_size if found.settings.data_parallel_rank < 0 else 1
    return Server(
        name,
        str(own.get("namespace") or ""),
        labels,
        tuple(range(PORT, PORT + ranks)),
        str(raw["kind"]),
        spec,
        profile,
    )


def tell(found: Read, place: str, report: Report) -> None:
    """Remark on every setting that is not simply the same."""
    for note in found.notes:
        report.add(place, Verdict.CHECK, str(note))
    for word in found.rest:
        report.add(place, Verdict.DROPPED, f"{word}: no flag of llm-d-inference-sim")
    same = [name for name in found.settings.given if name not in {problem.path for _, problem in found.fates()}]
    if same:
        report.add(place, Verdict.TRANSLATED, ", ".join(same))
    for fate, problem in found.fates():
        report.add(place, _VERDICTS[fate], str(problem))


def blocks_of(found: Read) -> tuple[dict[str, Any], dict[str, Any]]:
    """The blocks of a server's spec, and the spec of its profile."""
    tree = tree_of(found.settings, dev_mode=found.dev_mode)
    profile = tree.pop("profile")
    return tree, profile


def server_of_settings(found: Read, name: str, namespace: str) -> Server:
    """The server that a command line or a file describes."""
    spec, profile = blocks_of(found)
    spec["profileRef"] = {"name": name}
    return Server(name, namespace, {}, (PORT,), "", spec, profile)


def _labels(metadata: Mapping[str, Any], place: str, report: Report) -> dict[str, str]:
    labels = {}
    for key, value in _below(metadata, "labels").items():
        if key.startswith(RESERVED_PREFIX):
            report.add(place, Verdict.DROPPED, f"label {key}: it is the operator's")
        elif value in ("", None):
            report.add(place, Verdict.DROPPED, f"label {key}: it is empty, which schedulers take for a value")
        else:
            labels[key] = str(value)
    return labels


def annotations_kept(metadata: Mapping[str, Any], place: str, report: Report) -> dict[str, str]:
    """The annotations of an object that mean something beside the operator."""
    kept = {}
    for key, value in _below(metadata, "annotations").items():
        if key.startswith((RESERVED_PREFIX, "checksum/")) or key == _LAST_APPLIED:
            report.add(place, Verdict.NOT_NEEDED, f"annotation {key}")
        else:
            kept[key] = str(value)
    return kept


def _compute(container: Mapping[str, Any], place: str, report: Report) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for kind in ("requests", "limits"):
        amounts = _below(container, "resources", kind)
        for name in amounts.keys() - {"cpu", "memory"}:
            report.add(place, Verdict.DROPPED, f"resources.{kind}.{name}")
        if known := {name: amounts[name] for name in ("cpu", "memory") if name in amounts}:
            resources[kind] = known
    return {"resources": resources} if resources else {}


def _spreading(pod: Mapping[str, Any], place: str, report: Report) -> dict[str, Any]:
    spreads = []
    for given in objects_in(pod.get(_SPREADING)):
        spreads.append({key: value for key, value in given.items() if key in _SPREAD})
        for key in sorted(given.keys() - _SPREAD):
            report.add(place, Verdict.NOT_NEEDED, f"{key} of {_SPREADING}: the pods of the server count")
    return {_SPREADING: spreads} if spreads else {}


def _tell_of_the_pod(pod: Mapping[str, Any], container: Mapping[str, Any], place: str, report: Report) -> None:
    for key in pod.keys() - _OPERATORS.keys() - {*_COPIED, _SPREADING}:
        report.add(place, Verdict.DROPPED, f"{key} of the pod: it is not one of the fields of spec.pod")
    for key, why in _OPERATORS.items():
        if why and pod.get(key):
            report.add(place, Verdict.NOT_NEEDED, f"{key} of the pod: {why} is in its place")
    if probes := [probe for probe in _PROBES if probe in container]:
        report.add(place, Verdict.NOT_NEEDED, f"{', '.join(probes)}: the operator sets its own")
    for key in sorted(container.keys() - _IN_CONTAINER):
        report.add(place, Verdict.NOT_NEEDED, f"{key} of the container: the operator sets its own")
    for volume in objects_in(pod.get("volumes")):
        if "configMap" not in volume:
            report.add(place, Verdict.DROPPED, f"volume {volume.get('name')}")
