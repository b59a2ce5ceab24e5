"""The objects that make a server on Kubernetes, as plain dictionaries for server-side apply; pure.

The same plan gives the same dictionaries. Only fields that the operator owns are in them, so labels, side-cars and
annotations that others add stay.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ghostfleet_operator.kinds.meta import API_VERSION
from ghostfleet_operator.kinds.pod import RESERVED_PREFIX, Image, Resources, amount
from ghostfleet_operator.plan.documents import FILE_ANNOTATION, annotations_of, data_of
from ghostfleet_operator.plan.observed import DOCUMENT_FILE, Replica, serving
from ghostfleet_operator.plan.ports import api_ports, endpoint_name, event_ports, port_annotations
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.plan.waves import Truth
from ghostfleet_operator.resolve import ADMIN_PORT, PORT

FIELD_MANAGER: Final = "ghostfleet-operator"
"""Owner of the fields that the operator sets; the name under which it is seen everywhere."""
SERVER_LABEL: Final = f"{RESERVED_PREFIX}server"
RESTART_HASH_ANNOTATION: Final = f"{RESERVED_PREFIX}restart-hash"
LEFT_OUT_ANNOTATION: Final = f"{RESERVED_PREFIX}endpoints-left-out"
ADMIN_FILE: Final = "token"
ENDPOINTS_KEY: Final = "endpoints.yaml"

_USER: Final = 65532
_DEFAULT_REQUESTS: Final = {"cpu": "50m", "memory": "96Mi"}
_WITHDRAWAL_SECONDS: Final = 5
"""How long a pod that is to stop goes on as before: proxies and gateways need it to take the pod off their lists."""
_ENDING_SECONDS: Final = 5
"""What is left of the grace period when the last requests are aborted, to tell their clients and to end."""
_MOST_ENDPOINT_BYTES: Final = 900_000  # a ConfigMap and the EPP's file discovery both end at 1 MiB

Child = dict[str, Any]


class Owner(Protocol):
    """What children are named after and belong to; a plan is one."""

    @property
    def namespace(self) -> str:
        """Namespace of the server."""

    @property
    def name(self) -> str:
        """Name of the server."""

    @property
    def uid(self) -> str:
        """UID of the server."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator adds to every plan: the default image, the server's admin tokens, and its own pull settings."""

    simulator_image: str
    tokens: tuple[str, ...] = field(repr=False)
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildNames:
    """Names of a server's children; the Secret's carries the UID, so that it never meets a Secret of another owner."""

    config: str
    secret: str
    deployment: str
    service: str
    headless: str
    endpoints: str

    @classmethod
    def of(cls, name: str, uid: str) -> ChildNames:
        """The names for a server; each is a DNS label, because a server's name has at most 48 characters."""
        token = f"{name}-admin-{uid.replace('-', '')[:8]}".rstrip("-")
        return cls(f"{name}-config", token, name, name, f"{name}-headless", f"{name}-endpoints")


def is_ours(child: Mapping[str, Any], uid: str) -> bool:
    """Whether an existing object is controlled by the server with this UID; any other one is never touched."""
    owners = child.get("metadata", {}).get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def selector(name: str) -> str:
    """The label selector of a server's pods, as text."""
    return f"{SERVER_LABEL}={name}"


def children(plan: ServerPlan, options: Options) -> list[Child]:
    """ConfigMap, Secret, Services and Deployment of a server, in the order in which they are applied."""
    return [
        config_map(plan, plan.truth),
        admin_secret(plan, options.tokens),
        _service(plan, headless=False),
        _service(plan, headless=True),
        deployment(plan, options),
    ]


def config_map(server: Owner, truth: Truth) -> Child:
    """The durable truth: the document that every pod reads at its start and watches."""
    names = ChildNames.of(server.name, server.uid)
    return child(server, "v1", "ConfigMap", names.config, annotations_of(truth)) | {"data": data_of(truth)}


def admin_secret(server: Owner, tokens: tuple[str, ...]) -> Child:
    """The bearer tokens of the admin API, as a file for the pods: one a line, the newest first."""
    names = ChildNames.of(server.name, server.uid)
    content = base64.b64encode("\n".join(tokens).encode()).decode()
    return child(server, "v1", "Secret", names.secret) | {"type": "Opaque", "data": {ADMIN_FILE: content}}


def _service(plan: ServerPlan, *, headless: bool) -> Child:
    names = ChildNames.of(plan.name, plan.uid)
    config, networking = plan.resolved.config, plan.resolved.server.spec.networking
    kind = "ClusterIP" if headless else networking.service_type.value
    spec: dict[str, Any] = {
        "type": kind,
        "selector": {SERVER_LABEL: plan.name},
        "ports": [
            {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}
            for name, port in api_ports(config) + (event_ports(config) if headless else [])
        ],
    }
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": False}
        return child(plan, "v1", "Service", names.headless) | {"spec": spec}
    return child(plan, "v1", "Service", names.service, dict(networking.service_annotations)) | {"spec": spec}


def deployment(plan: ServerPlan, options: Options) -> Child:
    """The pods. A change of the pod template replaces them; of the document only its file's name is in it, which says
    something of the live part with `Restart` only."""
    names, pod = ChildNames.of(plan.name, plan.uid), plan.resolved.server.spec.pod
    annotations = port_annotations(plan.resolved.config) | dict(pod.annotations)
    annotations[RESTART_HASH_ANNOTATION] = plan.restart_hash
    if plan.truth.file != DOCUMENT_FILE:
        annotations[FILE_ANNOTATION] = plan.truth.file
    template = {
        "metadata": {
            "labels": _labels(plan.name) | plan.resolved.server.spec.pod_labels,
            "annotations": annotations,
        },
        "spec": _pod_spec(names, plan, options),
    }
    spec = {
        "replicas": plan.replicas,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": {SERVER_LABEL: plan.name}},
        "template": template,
    }
    return child(plan, "apps/v1", "Deployment", names.deployment) | {"spec": spec}


def endpoints_config_map(server: Owner, replicas: tuple[Replica, ...]) -> Child:
    """Every port that takes requests, as the EPP's file discovery reads it: ports are strings, addresses IPv4.

    JSON is YAML, so the text under `endpoints.yaml` serves both. What does not fit a ConfigMap is left out from the
    end, and the annotation `ghostfleet.dev/endpoints-left-out` counts it.
    """
    entries, size = [], 0
    found = [(replica, address, port) for replica, address in serving(replicas) for port in replica.ports]
    for replica, address, port in found:
        labels = {key: value for key, value in sorted(replica.labels.items()) if key != "pod-template-hash"}
        entry = {
            "name": endpoint_name(replica.name, port - PORT if replica.has_ranks else None),
            "namespace": server.namespace,
            "address": address,
            "port": str(port),
            "labels": labels,
        }
        text = json.dumps(entry, ensure_ascii=False)
        size += len(text.encode()) + 2
        if size > _MOST_ENDPOINT_BYTES:
            break
        entries.append(text)
    left_out = len(found) - len(entries)
    annotations = {LEFT_OUT_ANNOTATION: str(left_out)} if left_out else {}
    body = '{"endpoints": [' + ",".join(f"\n{entry}" for entry in entries) + "]}\n"
    names = ChildNames.of(server.name, server.uid)
    return child(server, "v1", "ConfigMap", names.endpoints, annotations) | {"data": {ENDPOINTS_KEY: body}}


def image_reference(default: str, image: Image) -> str:
    """The image to run: `default` (`repository[:tag][@digest]`) with the parts that a server gives in their place.

    A given digest wins over any tag; with only another repository the default's tag stays.
    """
    base, _, digest = default.partition("@")
    slash = base.rfind("/")
    colon = base.find(":", slash + 1)
    repository, tag = (base[:colon], base[colon + 1 :]) if colon >= 0 else (base, "")
    if image.digest:
        return f"{image.repository or repository}@{image.digest}"
    if image.repository or image.tag:
        tag = image.tag or tag
        return (image.repository or repository) + (f":{tag}" if tag else "")
    return f"{base}@{digest}" if digest else base


def stopping(grace_seconds: int) -> tuple[int, int]:
    """How a pod spends its grace period: seconds it serves on while endpoints are withdrawn, seconds it drains.

    The server refuses new requests as soon as it drains, as vLLM does, so nobody may know it by then. What remains is
    for the end; short periods are shared out so that half of them is for the drain.
    """
    share = grace_seconds // 4
    withdrawal = min(_WITHDRAWAL_SECONDS, share)
    return withdrawal, grace_seconds - withdrawal - min(_ENDING_SECONDS, share)


def _labels(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "ghostfleet-simulator",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/part-of": "ghostfleet",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        SERVER_LABEL: name,
    }


def child(server: Owner, api_version: str, kind: str, name: str, annotations: dict[str, str] | None = None) -> Child:
    """What every child of a server begins with: names, labels and the owner."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": "SimulatedModelServer",
        "name": server.name,
        "uid": server.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": server.namespace,
        "labels": _labels(server.name),
        "ownerReferences": [owner],
    }
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _pod_spec(names: ChildNames, plan: ServerPlan, options: Options) -> dict[str, Any]:
    pod = plan.resolved.server.spec.pod
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pod.termination_grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(plan, options)],
        "volumes": [
            {"name": "config", "configMap": {"name": names.config, "defaultMode": 0o444}},
            {"name": "admin", "secret": {"secretName": names.secret, "defaultMode": 0o440}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }
    secrets = dict.fromkeys((*options.image_pull_secrets, *(secret.name for secret in pod.image_pull_secrets)))
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    if pod.node_selector:
        spec["nodeSelector"] = dict(pod.node_selector)
    if pod.tolerations:
        spec["tolerations"] = [t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in pod.tolerations]
    if pod.topology_spread_constraints:
        spec["topologySpreadConstraints"] = [
            spread.model_dump(mode="json", by_alias=True)
            # Pods of the template before, which are about to go, do not count.
            | {"labelSelector": {"matchLabels": {SERVER_LABEL: plan.name}}, "matchLabelKeys": ["pod-template-hash"]}
            for spread in pod.topology_spread_constraints
        ]
    if pod.priority_class_name:
        spec["priorityClassName"] = pod.priority_class_name
    return spec


def _container(plan: ServerPlan, options: Options) -> dict[str, Any]:
    pod = plan.resolved.server.spec.pod
    config = plan.resolved.config
    loading = math.ceil(config.lifecycle.startup_duration.seconds)
    withdrawal, drain = stopping(pod.termination_grace_period_seconds)
    container: dict[str, Any] = {
        "name": "server",
        "image": image_reference(options.simulator_image, pod.image),
        "args": [
            "serve",
            *("--as", "vllm"),  # an image may have GHOSTFLEET_AS set for containers that are started by hand
            *("--config", f"/etc/ghostfleet/config/{plan.truth.file}"),
            *("--host", "0.0.0.0"),  # noqa: S104  (a pod listens on every address it has)
            *("--port", str(PORT)),
            *("--admin-port", str(ADMIN_PORT)),
            *("--admin-token-file", f"/etc/ghostfleet/admin/{ADMIN_FILE}"),
            *("--shutdown-timeout", str(drain)),
        ],
        "env": [
            {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
            for name, path in (
                ("POD_NAME", "metadata.name"),
                ("POD_NAMESPACE", "metadata.namespace"),
                ("POD_IP", "status.podIP"),
            )
        ],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in [*api_ports(config), ("admin", ADMIN_PORT), *event_ports(config)]
        ],
        "startupProbe": _probe("/health", "http", period=1, failures=60 + loading),
        "livenessProbe": _probe("/health", "http", period=10, failures=3),
        "readinessProbe": _probe("/admin/ready", "admin", period=2, failures=2),
        "resources": _resources(pod.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/ghostfleet/config", "readOnly": True},
            {"name": "admin", "mountPath": "/etc/ghostfleet/admin", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (a volume of the pod's own)
        ],
    }
    if withdrawal:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": withdrawal}}}
    policy = pod.image.pull_policy.value if pod.image.pull_policy else options.image_pull_policy
    if policy:
        container["imagePullPolicy"] = policy
    return container


def _probe(path: str, port: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _resources(resources: Resources) -> dict[str, dict[str, str]]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for name, default in _DEFAULT_REQUESTS.items():
        request, limit = getattr(resources.requests, name), getattr(resources.limits, name)
        if limit is not None:
            limits[name] = str(limit)
        # A limit below the default request would make the pod invalid.
        small = limit is not None and amount(limit) < amount(default)
        requests[name] = str(request) if request is not None else str(limit) if small else default
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}
