"""The pods of a server: image, container, probes and resources; pure."""

from __future__ import annotations

import math
from typing import Any, Final

from ghostfleet_operator.kinds.pod import Image, Resources, amount
from ghostfleet_operator.plan.naming import SERVER_LABEL, ChildNames
from ghostfleet_operator.plan.options import Options
from ghostfleet_operator.plan.ports import api_ports, event_ports
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.resolve import ADMIN_PORT, PORT

ADMIN_FILE: Final = "token"
_USER: Final = 65532
_DEFAULT_REQUESTS: Final = {"cpu": "50m", "memory": "96Mi"}
_WITHDRAWAL_SECONDS: Final = 5
"""How long a pod that is to stop goes on as before: proxies and gateways need it to take the pod off their lists."""
_ENDING_SECONDS: Final = 5
"""What is left of the grace period when the last requests are aborted, to tell their clients and to end."""


def pod_spec(names: ChildNames, plan: ServerPlan, options: Options) -> dict[str, Any]:
    """The pods of a server: one container that satisfies the restricted pod security standard, and what it mounts."""
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
