"""A full life of a server: what a user does to it, and what must come of it whatever happens on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
from tests.apiserver.cluster import (
    REPLICA_SET,
    Cluster,
    Json,
    Jsons,
    condition,
    document_of,
    names_of,
    path,
    profile,
    server,
)

from ghostfleet_operator.reconcile.api import (
    CHILDREN,
    CONFIG_MAP,
    DEPLOYMENT,
    POD,
    PROFILE,
    SECRET,
    SERVER,
    SERVICE,
)
from ghostfleet_operator.reconcile.token import admin_token
from ghostfleet_operator.resolve import ADMIN_PORT
from ghostfleet_simulator.bearer import bound

KEY = b"0123456789abcdef"
"""What the operators of these tests derive tokens from."""


class Life:
    """The life of one server and of its profile, both called `name`, which no other name begins with."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, *, within: float = 60.0) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.within = within
        self.revision = 0

    def live(self, settled: Callable[[], None] = lambda: time.sleep(2.5)) -> None:
        """Create, change the profile, scale, drift, delete; `settled` waits for a pass over what did not change."""
        self.begin()
        self.change_profile()
        self.scale()
        self.drift()
        before = self.versions()
        settled()
        assert self.versions() == before, f"{self.name}: the same input again was written"
        self.end()

    def begin(self) -> None:
        self.cluster.create(profile(self.namespace, self.name, "20ms"))
        self.cluster.create(server(self.namespace, self.name, profile=None, profileRef={"name": self.name}))
        self.until(lambda: self.runs(2, "20ms"))

    def change_profile(self) -> None:
        self.cluster.merge(PROFILE, self.namespace, self.name, {"spec": {"simple": {"timeToFirstToken": "70ms"}}})
        self.until(lambda: self.runs(2, "70ms"))

    def scale(self) -> None:
        self.cluster.merge(SERVER, self.namespace, self.name, {"spec": {"replicas": 3}})
        self.until(lambda: self.runs(3, "70ms"))

    def drift(self) -> None:
        """Somebody scales the Deployment, takes a port away, deletes a Service and spoils a ConfigMap."""
        names = names_of(self.cluster, self.namespace, self.name)
        self.cluster.merge(DEPLOYMENT, self.namespace, names.deployment, {"spec": {"replicas": 1}})
        self.cluster.delete(SERVICE, self.namespace, names.headless)
        self.cluster.merge(SERVICE, self.namespace, names.service, {"spec": {"selector": {"app": "other"}}})
        self.cluster.merge(CONFIG_MAP, self.namespace, names.config, {"data": {"server.json": "{}"}})
        self.until(lambda: self.runs(3, "70ms"))

    def end(self) -> None:
        self.cluster.delete(SERVER, self.namespace, self.name)
        self.until(self.is_unused)
        self.cluster.delete(PROFILE, self.namespace, self.name)
        self.until(self.is_gone)

    def until(self, look: Callable[[], None]) -> None:
        """Wait until `look` fails no more; its last complaint where time is up."""
        deadline = time.monotonic() + self.within
        while True:
            try:
                look()
            except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name}: {type(error).__name__}: {error}") from error
            else:
                return
            time.sleep(0.15)

    def runs(self, replicas: int, ttft: str) -> None:
        """Everything is there once, as wanted, runs the wanted document, and the status says so."""
        found = self.cluster.must_get(SERVER, self.namespace, self.name)
        status, names = found["status"], names_of(self.cluster, self.namespace, self.name)
        ready = condition(found, "Ready")
        assert (ready["status"], ready["observedGeneration"]) == ("True", found["metadata"]["generation"]), status
        assert (status["replicas"], status["readyReplicas"], status["endpointCount"]) == (replicas,) * 3, status
        document = document_of(self.cluster, self.namespace, self.name)
        assert document["config"]["profile"]["simple"]["timeToFirstToken"] == ttft, document
        assert document["revision"] >= self.revision, "revisions only grow"
        self.revision = document["revision"]
        desired = status["profile"]["desired"]
        assert (desired["revision"], desired["hash"]) == (self.revision, document["hash"]), status
        assert (status["profile"]["syncedReplicas"], status["profile"]["lagging"]) == (replicas, []), status
        children = {(obj["kind"], obj["metadata"]["name"]) for obj in self.objects((*CHILDREN, SECRET))}
        assert children == {
            ("ConfigMap", names.config), ("ConfigMap", names.endpoints), ("Secret", names.secret),
            ("Service", names.service), ("Service", names.headless), ("Deployment", names.deployment),
        }  # fmt: skip
        service = self.cluster.must_get(SERVICE, self.namespace, names.service)
        assert service["spec"]["selector"] == {"ghostfleet.dev/server": self.name}
        assert self.cluster.must_get(DEPLOYMENT, self.namespace, names.deployment)["spec"]["replicas"] == replicas
        sets = [s for s in self.objects((REPLICA_SET,)) if s["spec"]["replicas"]]
        assert len(sets) == 1, "one set of pods"
        pods = self.objects((POD,))
        assert len(pods) == replicas, [pod["metadata"]["name"] for pod in pods]
        for pod in pods:
            told = self.ask(pod, found["metadata"]["uid"])
            assert (told["revision"], told["hash"]) == (self.revision, document["hash"]), told

    def ask(self, pod: Json, uid: str) -> Json:
        """What a pod of the server says that it runs."""
        address = pod["status"]["podIP"]
        token = bound(admin_token(KEY, uid).encode(), pod["metadata"]["name"], address)
        headers = {"authorization": f"Bearer {token}"}
        url = f"http://{address}:{ADMIN_PORT}/admin/state"
        return dict(httpx.get(url, headers=headers, trust_env=False, timeout=10).json())

    def is_unused(self) -> None:
        """The server is gone with all that it had, and its profile knows."""
        assert self.cluster.get(SERVER, self.namespace, self.name) is None
        left = self.objects((*CHILDREN, SECRET, REPLICA_SET, POD))
        assert not left, [(obj["kind"], obj["metadata"]["name"]) for obj in left]
        used = self.cluster.must_get(PROFILE, self.namespace, self.name)["status"]["usedBy"]
        assert used == 0, f"used by {used}"

    def is_gone(self) -> None:
        assert self.cluster.get(PROFILE, self.namespace, self.name) is None

    def versions(self) -> dict[str, str]:
        """Versions of everything of this life but the Secret, which every resync applies without reading it."""
        found = self.objects((*CHILDREN, POD, SECRET))
        found += [self.cluster.must_get(kind, self.namespace, self.name) for kind in (SERVER, PROFILE)]
        return {f"{obj['kind']} {obj['metadata']['name']}": obj["metadata"]["resourceVersion"] for obj in found}

    def objects(self, kinds: tuple[Any, ...]) -> Jsons:
        """Objects that carry the server's label."""
        found: Jsons = []
        for kind in kinds:
            where = path(kind, self.namespace)
            items = self.cluster.call("GET", where, labelSelector=f"ghostfleet.dev/server={self.name}")["items"]
            found += [{**item, "kind": kind.name} for item in items]
        return found
