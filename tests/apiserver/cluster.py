"""What tests do to a cluster as its users, and as the controllers that are not there."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.reconcile.api import (
    CHILDREN,
    CONFIG_MAP,
    DEPLOYMENT,
    POD,
    PROFILE,
    SECRET,
    SERVER,
    Kind,
    kind_of,
)

CRD = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace")
REPLICA_SET = Kind("apps", "v1", "replicasets", "ReplicaSet")
EVENT = Kind("", "v1", "events", "Event")

Json = dict[str, Any]
Jsons = list[Json]
T = TypeVar("T")


class Rejected(Exception):
    """The API server said no."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Cluster:
    """One API server, as its administrator."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def call(self, method: str, path: str, body: object = None, kind: str = "application/json", **query: str) -> Json:
        content = None if body is None else json.dumps(body)
        headers = {"content-type": kind}
        answer = self.client.request(method, path, content=content, headers=headers, params=query)
        for _ in range(20):
            # The API server asks for patience while it sets up the storage of a new kind; client-go has it, too.
            if answer.status_code != 429:
                break
            time.sleep(0.5)
            answer = self.client.request(method, path, content=content, headers=headers, params=query)
        if answer.status_code >= 400:
            raise Rejected(answer.status_code, answer.json().get("message", ""))
        return dict(answer.json())

    def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        try:
            return self.call("GET", path(kind, namespace, name))
        except Rejected as error:
            if error.status == 404:
                return None
            raise

    def must_get(self, kind: Kind, namespace: str | None, name: str) -> Json:
        found = self.get(kind, namespace, name)
        assert found is not None, f"{kind.name} {name} is not there"
        return found

    def list(self, kind: Kind, namespace: str | None) -> Jsons:
        found: Jsons = self.call("GET", path(kind, namespace))["items"]
        return found

    def create(self, obj: Json) -> Json:
        kind = next((k for k in (CRD, NAMESPACE, REPLICA_SET, EVENT) if k.name == obj["kind"]), None) or kind_of(obj)
        where = path(kind, obj["metadata"].get("namespace"))
        return self.call("POST", where, obj, fieldValidation="Strict")

    def merge(self, kind: Kind, namespace: str | None, name: str, patch: Json, subresource: str = "") -> Json:
        where = path(kind, namespace, name) + subresource
        return self.call("PATCH", where, patch, "application/merge-patch+json", fieldValidation="Strict")

    def delete(self, kind: Kind, namespace: str | None, name: str) -> None:
        self.call("DELETE", path(kind, namespace, name), {"gracePeriodSeconds": 0})

    def status(self, namespace: str, name: str) -> Json:
        return dict(self.must_get(SERVER, namespace, name).get("status") or {})

    def condition(self, namespace: str, name: str, aspect: str) -> Json:
        return condition(self.must_get(SERVER, namespace, name), aspect)

    def events(self, namespace: str, reason: str) -> Jsons:
        return [event for event in self.list(EVENT, namespace) if event["reason"] == reason]

    def reasons(self, namespace: str) -> set[str]:
        """Reasons of all Events of a namespace."""
        return {event["reason"] for event in self.list(EVENT, namespace)}


def path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{kind.plural}" + (f"/{name}" if name else "")


def condition(obj: Json, aspect: str) -> Json:
    found = [c for c in (obj.get("status") or {}).get("conditions") or [] if c["type"] == aspect]
    return dict(found[0]) if found else {}


def eventually(look: Callable[[], T | None], within: float = 40.0) -> T:
    """What `look` returns once it neither fails an assertion nor finds nothing; its last complaint where time is up."""
    deadline = time.monotonic() + within
    while True:
        try:
            found = look()
            assert found is not None
        except (AssertionError, KeyError, IndexError):
            if time.monotonic() > deadline:
                raise
        else:
            return found
        time.sleep(0.03)


def server(namespace: str, name: str, **spec: Any) -> Json:
    """A server that the API accepts; `spec` is put over its spec, None removes."""
    full: Json = {
        "model": {"name": "org/model"},
        "replicas": 2,
        "profile": {"simple": {"timeToFirstToken": "20ms", "interTokenLatency": "5ms"}},
        **spec,
    }
    return {
        "apiVersion": SERVER.api_version,
        "kind": SERVER.name,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {key: value for key, value in full.items() if value is not None},
    }


def profile(namespace: str, name: str, ttft: str = "20ms", **simple: Any) -> Json:
    return {
        "apiVersion": SERVER.api_version,
        "kind": "LatencyProfile",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"simple": {"timeToFirstToken": ttft, **simple}},
    }


def cluster_profile(name: str, ttft: str = "20ms", **simple: Any) -> Json:
    found = profile("", name, ttft, **simple)
    return {**found, "kind": "ClusterLatencyProfile", "metadata": {"name": name}}


class Pods:
    """Plays the Deployment controller and the kubelet for one server: pods whose addresses are on loopback."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.generations = 0
        self.template: Json = {}
        self.replica_set: Json = {}
        self.take_template()

    def take_template(self) -> None:
        """Make a ReplicaSet of the Deployment's template as it is now; pods that are added later belong to it."""
        deployment = eventually(lambda: self.cluster.get(DEPLOYMENT, self.namespace, self.name))
        self.generations += 1
        suffix = f"5d4f8c7b{self.generations}"
        template = copy.deepcopy(deployment["spec"]["template"])
        template["metadata"]["labels"]["pod-template-hash"] = suffix
        self.template = template
        self.replica_set = self.cluster.create(
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": self._meta(f"{self.name}-{suffix}", deployment),
                "spec": {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template},
            }
        )

    def name_of(self, suffix: str) -> str:
        """Name of the pod that ends in `suffix`."""
        return f"{self.replica_set['metadata']['name']}-{suffix}"

    def add(self, suffix: str, address: str, *, ready: bool = True) -> Json:
        name = self.name_of(suffix)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**self._meta(name, self.replica_set), "annotations": self.template["metadata"]["annotations"]},
            "spec": self.template["spec"],
        }
        made = self.cluster.create(pod)
        self.set_ready(name, address, ready=ready)
        self.report()
        return made

    def set_ready(self, name: str, address: str, *, ready: bool) -> None:
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [
                {"name": "server", "image": "x", "imageID": "x", "ready": ready, "restartCount": 0, "state": {}}
            ],
        }
        self.cluster.merge(POD, self.namespace, name, {"status": status}, "/status")

    def report(self) -> None:
        """Status of the Deployment, as its controller would count it."""
        deployment = self.cluster.must_get(DEPLOYMENT, self.namespace, self.name)
        pods = [p for p in self.cluster.list(POD, self.namespace) if p["metadata"]["name"].startswith(f"{self.name}-")]
        ready = sum(condition(pod, "Ready").get("status") == "True" for pod in pods)
        newest = self.template["metadata"]["labels"]["pod-template-hash"]
        available = ready >= deployment["spec"]["replicas"]
        aspect = {
            "type": "Available",
            "status": str(available),
            "reason": "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            "message": "counted",
        }
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": sum(p["metadata"]["labels"]["pod-template-hash"] == newest for p in pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": [aspect],
        }
        self.cluster.merge(DEPLOYMENT, self.namespace, self.name, {"status": status}, "/status")

    def _meta(self, name: str, owner: Json) -> Json:
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": self.template["metadata"]["labels"],
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ],
        }


def names_of(cluster: Cluster, namespace: str, name: str) -> ChildNames:
    return ChildNames.of(name, cluster.must_get(SERVER, namespace, name)["metadata"]["uid"])


def document_of(cluster: Cluster, namespace: str, name: str) -> Json:
    config = cluster.must_get(CONFIG_MAP, namespace, names_of(cluster, namespace, name).config)
    return dict(json.loads(config["data"]["server.json"]))


def mount(cluster: Cluster, namespace: str, name: str, folder: Path) -> tuple[Path, Path]:
    """The files that the kubelet would put into a pod: the document and the admin token."""
    names = names_of(cluster, namespace, name)
    config, token = folder / "server.json", folder / "token"
    for key, text in cluster.must_get(CONFIG_MAP, namespace, names.config)["data"].items():
        (folder / key).write_text(text)
    secret = cluster.must_get(SECRET, namespace, names.secret)
    token.write_bytes(base64.b64decode(secret["data"]["token"]))
    return config, token


@contextlib.contextmanager
def unchanged(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Fails where an object of the namespace is written while the block runs."""

    def versions() -> dict[tuple[str, str], str]:
        kinds = (*CHILDREN, SERVER, PROFILE, SECRET, POD, EVENT)
        return {
            (kind.name, obj["metadata"]["name"]): obj["metadata"]["resourceVersion"]
            for kind in kinds
            for obj in cluster.list(kind, namespace)
        }

    before = versions()
    yield
    assert versions() == before
