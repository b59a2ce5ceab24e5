"""The objects that make a server on Kubernetes, as plain dictionaries for server-side apply; pure.

The same plan gives the same dictionaries. Only fields that the operator owns are in them, so labels, side-cars and
annotations that others add stay.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from ghostfleet_operator.kinds.pod import RESERVED_PREFIX
from ghostfleet_operator.plan.documents import FILE_ANNOTATION, annotations_of, data_of
from ghostfleet_operator.plan.naming import SERVER_LABEL, Child, ChildNames, Owner, child, labels_of
from ghostfleet_operator.plan.observed import DOCUMENT_FILE, Replica, serving
from ghostfleet_operator.plan.options import Options
from ghostfleet_operator.plan.pods import ADMIN_FILE, pod_spec
from ghostfleet_operator.plan.ports import api_ports, endpoint_name, event_ports, port_annotations
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.plan.waves import Truth
from ghostfleet_operator.resolve import PORT

RESTART_HASH_ANNOTATION: Final = f"{RESERVED_PREFIX}restart-hash"
LEFT_OUT_ANNOTATION: Final = f"{RESERVED_PREFIX}endpoints-left-out"
ENDPOINTS_KEY: Final = "endpoints.yaml"

_MOST_ENDPOINT_BYTES: Final = 900_000  # a ConfigMap and the EPP's file discovery both end at 1 MiB


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
            "labels": labels_of(plan.name) | plan.resolved.server.spec.pod_labels,
            "annotations": annotations,
        },
        "spec": pod_spec(names, plan, options),
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
