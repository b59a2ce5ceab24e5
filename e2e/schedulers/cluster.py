"""The lab in the cluster that `make e2e` prepared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from e2e.conftest import Kubectl, Object, namespace, until
from e2e.ext_proc.picker import Client
from e2e.schedulers.lab import ALPHA, ARGUMENTS, BETA, POOL, Lab, Pod, RunningPicker

_PICKER_PORT, _METRICS_PORT, _HEALTH_PORT = 9002, 9090, 9003
_PODS: Final = ("pods", "-l", "app=lab")


class ClusterLab(Lab):
    """Pods of two SimulatedModelServers; pickers are pods, too."""

    def __init__(self, kubectl: Kubectl, api: str, client: Client, image: str) -> None:
        """`api` is the base URL of the API server, without any credentials needed."""
        self._kubectl = kubectl
        self._api = api
        self._client = client
        self._image = image
        self._node = kubectl.node_address()

    def pods(self) -> list[Pod]:
        """Pods that are Ready and are not being deleted."""
        found = [pod for pod in self._kubectl.items(*_PODS) if _serves(pod)]
        return sorted(map(self._pod, found), key=lambda pod: (pod.server, pod.name))

    def change(self, server: str, **spec: Any) -> None:
        """By `kubectl patch`, and what the status says then."""
        self._kubectl("patch", "sms", server, "--type=merge", "-p", json.dumps({"spec": spec}))

        def is_in_force() -> bool:
            found = self._kubectl.get("sms", server)
            told = {each["type"]: each["status"] for each in found["status"]["conditions"]}
            fresh = found["status"]["observedGeneration"] == found["metadata"]["generation"]
            # A server that is made unready is no longer Ready as a whole, but all of it that is runs the document.
            return fresh and (told["Ready"] == "True" or (told["ProfileSynced"] != "False" and "failures" in spec))

        until(f"{server} runs {spec}", is_in_force, 120)

    def kill(self, pod: Pod) -> None:
        """By `kubectl delete --force`."""
        self._kubectl("delete", "pod", pod.name, "--grace-period=0", "--force")

    @contextmanager
    def having(self, obj: Object) -> Iterator[None]:
        """By `kubectl apply`."""
        self._kubectl.apply(obj)
        try:
            yield
        finally:
            self._kubectl("delete", obj["kind"], obj["metadata"]["name"])

    @contextmanager
    def picker(self, name: str, config: Mapping[str, Any]) -> Iterator[RunningPicker]:
        """A pod with a Service and a ConfigMap."""
        self._kubectl.apply(*_picker_objects(name, self._image, config, self._kubectl.namespace))
        try:
            self._kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=120s")
            port = self._kubectl.get("service", name)["spec"]["ports"][0]["nodePort"]
            picker = RunningPicker(
                self._client, f"{self._node}:{port}", self._kubectl.pod_url(self._api, name, _METRICS_PORT)
            )
            picker.until("ready_pods", len(self.pods()))
            yield picker
        finally:
            self._kubectl("delete", "pod,service,configmap", name, "--grace-period=1", "--ignore-not-found")

    def _pod(self, pod: Object) -> Pod:
        meta, status = pod["metadata"], pod["status"]
        restarts = sum(container["restartCount"] for container in status["containerStatuses"])
        return Pod(
            meta["name"],
            f"{meta['uid']} {restarts}",
            f"{status['podIP']}:8000",
            self._kubectl.pod_url(self._api, meta["name"]),
            meta["labels"]["ghostfleet.dev/server"],
        )


@contextmanager
def cluster_lab(api: str, client: Client, image: str) -> Iterator[ClusterLab]:
    """Two servers of three pods, all Ready, in a namespace of their own."""
    with namespace("e2e-schedulers") as kubectl:
        kubectl.apply(*_account(kubectl.namespace), ALPHA, BETA)
        kubectl("wait", "sms", "--all", "--for=condition=Ready", "--timeout=180s")
        yield ClusterLab(kubectl, api, client, image)


def _account(namespace: str) -> list[Object]:
    """What pickers may do: the roles that the charts of the Gateway API Inference Extension give them."""
    rbac, read = "rbac.authorization.k8s.io", ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": read},
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": read},
        {
            "apiGroups": ["inference.networking.x-k8s.io"],
            "resources": ["inferenceobjectives", "inferencemodelrewrites"],
            "verbs": read,
        },
    ]
    meta = {"name": "picker"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "picker"},
            "subjects": [{"kind": "ServiceAccount", "name": "picker", "namespace": namespace}],
        },
    ]


def _picker_objects(name: str, image: str, config: Mapping[str, Any], namespace: str) -> list[Object]:
    meta = {"name": name, "labels": {"picker": name}}
    arguments = ["--pool-name", POOL, "--pool-namespace", namespace, "--config-file", "/config/config.yaml", *ARGUMENTS]
    container = {
        "name": "epp",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "readinessProbe": {"grpc": {"port": _HEALTH_PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
    }
    secure = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "serviceAccountName": "picker",
        "terminationGracePeriodSeconds": 1,
        "securityContext": secure,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": name}}],
    }
    ports = [{"port": _PICKER_PORT, "targetPort": _PICKER_PORT}]
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"config.yaml": json.dumps(config)}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"type": "NodePort", "selector": {"picker": name}, "ports": ports},
        },
    ]


def _serves(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    ready = any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
