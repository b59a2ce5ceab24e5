"""Hot reload with real simulator processes in the place of pods: loopback addresses are their pod addresses."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.apiserver.cluster import Cluster, Json, Pods, document_of, eventually, mount, profile, server
from tests.apiserver.conftest import Operator
from tests.apiserver.control_plane import process

from ghostfleet_operator.plan.kubernetes import ChildNames
from ghostfleet_operator.reconcile.api import CONFIG_MAP, POD, PROFILE, SERVER
from ghostfleet_operator.resolve import ADMIN_PORT, PORT

pytestmark = pytest.mark.usefixtures("operator")

_HOSTS = itertools.count(1)


def address() -> str:
    """A loopback address of this test session's own."""
    return f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250 + 1}.{next(_HOSTS)}"


class Fleet:
    """A server with running simulators as its pods."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.folder = folder
        self.pods = Pods(cluster, namespace, name)
        self.addresses: dict[str, str] = {}
        self.stack = contextlib.ExitStack()

    def start(self, *suffixes: str) -> None:
        """Start simulators as the kubelet would, from the ConfigMap and the Secret, and report their pods Ready."""
        for suffix in suffixes:
            self.addresses[suffix] = address()
            folder = self.folder / suffix
            folder.mkdir()
            config, token = mount(self.cluster, self.namespace, self.name, folder)
            command = [sys.executable, "-m", "ghostfleet_operator.cli.main", "serve", "--config", str(config)]
            command += ["--host", self.addresses[suffix], "--port", str(PORT), "--admin-port", str(ADMIN_PORT)]
            command += ["--admin-token-file", str(token)]
            self.stack.enter_context(process(command, folder / "log"))
        for suffix in suffixes:
            eventually(lambda suffix=suffix: self.is_ready(suffix), within=30)
            self.pods.add(suffix, self.addresses[suffix])

    def is_ready(self, suffix: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            if self.admin("GET", "ready", suffix).status_code == 200:
                return True
        raise AssertionError((self.folder / suffix / "log").read_text())

    def admin(self, method: str, page: str, suffix: str, body: Json | None = None) -> httpx.Response:
        token = (self.folder / suffix / "token").read_text()
        url = f"http://{self.addresses[suffix]}:{ADMIN_PORT}/admin/{page}"
        headers = {"authorization": f"Bearer {token}"}
        return httpx.request(method, url, json=body, headers=headers, trust_env=False)

    def revision(self, suffix: str) -> int:
        return int(self.admin("GET", "state", suffix).json()["revision"])

    def hashes(self) -> set[str]:
        return {self.admin("GET", "state", suffix).json()["hash"] for suffix in self.addresses}

    def synced(self, revision: int) -> Json:
        """The status, once every pod is said to run this revision."""

        def look() -> Json:
            status = self.cluster.status(self.namespace, self.name)
            found = self.cluster.condition(self.namespace, self.name, "ProfileSynced")
            assert (found["status"], status["profile"]["desired"]["revision"]) == ("True", revision), status
            assert status["profile"]["syncedReplicas"] == len(self.addresses), status
            return status

        return eventually(look)


@contextlib.contextmanager
def fleet(cluster: Cluster, namespace: str, folder: Path, *suffixes: str) -> Iterator[Fleet]:
    cluster.create(profile(namespace, "shared", "20ms"))
    created = cluster.create(
        server(namespace, "one", replicas=len(suffixes), profile=None, profileRef={"name": "shared"})
    )
    names = ChildNames.of("one", created["metadata"]["uid"])
    eventually(lambda: cluster.must_get(CONFIG_MAP, namespace, names.endpoints))
    running = Fleet(cluster, namespace, "one", folder)
    with running.stack:
        running.start(*suffixes)
        yield running


def set_ttft(cluster: Cluster, namespace: str, ttft: str) -> None:
    cluster.merge(PROFILE, namespace, "shared", {"spec": {"simple": {"timeToFirstToken": ttft}}})


def test_a_profile_edit_is_live_on_every_pod_and_proven_without_a_restart(
    cluster: Cluster, operator: Operator, namespace: str, tmp_path: Path
) -> None:
    with fleet(cluster, namespace, tmp_path, "a", "b") as running:
        running.synced(1)
        eventually(lambda: cluster.condition(namespace, "one", "Ready")["status"] == "True" or None)
        template = cluster.must_get(SERVER, namespace, "one")["metadata"]["generation"]
        before = {pod["metadata"]["uid"] for pod in cluster.list(POD, namespace)}
        syncs = operator.metric("ghostfleet_operator_profile_sync_duration_seconds_count")

        start = time.monotonic()
        set_ttft(cluster, namespace, "150ms")
        status = running.synced(2)
        took = time.monotonic() - start
        print(f"profile edit to ProfileSynced: {took * 1000:.0f} ms as seen by a client")  # noqa: T201

        assert running.hashes() == {status["profile"]["desired"]["hash"]}
        assert took < 5
        assert 0 < float(status["profile"]["lastSyncDuration"].removesuffix("s")) < took
        assert operator.metric("ghostfleet_operator_profile_sync_duration_seconds_count") > syncs
        assert {pod["metadata"]["uid"] for pod in cluster.list(POD, namespace)} == before
        assert cluster.must_get(SERVER, namespace, "one")["metadata"]["generation"] == template
        url = f"http://{running.addresses['a']}:{PORT}/v1/completions"
        asked = time.monotonic()
        answer = httpx.post(url, json={"model": "org/model", "prompt": "hello", "max_tokens": 1}, trust_env=False)
        assert answer.status_code == 200
        assert answer.headers["x-ghostfleet-revision"] == "2"
        assert time.monotonic() - asked >= 0.15, "the new time to the first token is in force"
        told = eventually(
            lambda: next((e for e in cluster.events(namespace, "ProfileSynced") if "revision 2" in e["message"]), None)
        )
        assert told["type"] == "Normal"


def test_endpoints_are_those_of_the_ready_pods(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with fleet(cluster, namespace, tmp_path, "a", "b") as running:
        status = running.synced(1)
        assert sorted(e["address"] for e in status["endpoints"]) == sorted(running.addresses.values())
        pod = next(p["metadata"]["name"] for p in cluster.list(POD, namespace) if p["metadata"]["name"].endswith("-a"))
        running.pods.set_ready(pod, running.addresses["a"], ready=False)
        running.pods.report()
        eventually(lambda: cluster.status(namespace, "one")["endpointCount"] == 1 or None)
        listed = cluster.must_get(CONFIG_MAP, namespace, "one-endpoints")["data"]["endpoints.yaml"]
        assert running.addresses["b"] in listed
        assert running.addresses["a"] not in listed
        assert cluster.condition(namespace, "one", "Ready")["status"] == "False"


# Accepted by the schema of the API server, which cannot compare two quantities.
INVALID: Json = {"spec": {"pod": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}}}


def test_pods_of_a_spec_that_turned_invalid_are_still_counted_and_told_of(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """What runs goes on, so schedulers and autoscalers must not lose sight of it; nor of what becomes of it."""
    with fleet(cluster, namespace, tmp_path, "a", "b") as running:
        running.synced(1)
        cluster.merge(SERVER, namespace, "one", INVALID)

        def stalled(endpoints: int) -> Json:
            status = cluster.status(namespace, "one")
            assert cluster.condition(namespace, "one", "Stalled").get("reason") == "Invalid", status
            assert (status["endpointCount"], status["profile"]["syncedReplicas"]) == (endpoints, endpoints), status
            return status

        status = eventually(lambda: stalled(2))
        assert (status["replicas"], status["readyReplicas"], len(status["endpoints"])) == (2, 2, 2)
        pod = next(p["metadata"]["name"] for p in cluster.list(POD, namespace) if p["metadata"]["name"].endswith("-a"))
        running.pods.set_ready(pod, running.addresses["a"], ready=False)
        eventually(lambda: stalled(1))
        listed = cluster.must_get(CONFIG_MAP, namespace, "one-endpoints")["data"]["endpoints.yaml"]
        assert running.addresses["b"] in listed
        assert running.addresses["a"] not in listed


def test_a_patched_pod_is_found_and_brought_back(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with fleet(cluster, namespace, tmp_path, "a") as running:
        wanted = running.synced(1)["profile"]["desired"]["hash"]
        patch = {"profile": {"simple": {"timeToFirstToken": "9ms"}}}
        assert running.admin("PATCH", "config", "a", patch).status_code == 200
        assert running.hashes() != {wanted}
        eventually(lambda: running.hashes() == {wanted} or None)
        running.synced(1)


def test_a_config_map_is_rebuilt_above_the_revision_of_every_pod(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with fleet(cluster, namespace, tmp_path, "a") as running:
        running.synced(1)
        document = document_of(cluster, namespace, "one")
        assert running.admin("PUT", "config", "a", {**document, "revision": 40}).status_code == 200
        eventually(lambda: running.revision("a") == 41 or None)
        running.synced(41)
        assert document_of(cluster, namespace, "one")["revision"] == 41


def test_a_pod_that_holds_another_document_under_the_same_number_is_overruled(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with fleet(cluster, namespace, tmp_path, "a") as running:
        running.synced(1)
        document = document_of(cluster, namespace, "one")
        other = document["config"] | {"profile": {"simple": {"timeToFirstToken": "3ms"}}}
        assert running.admin("PUT", "config", "a", {"revision": 2, "config": other}).status_code == 200
        set_ttft(cluster, namespace, "60ms")
        eventually(lambda: running.hashes() == {document_of(cluster, namespace, "one")["hash"]} or None)
        eventually(lambda: cluster.condition(namespace, "one", "ProfileSynced")["status"] == "True" or None)


def test_a_pod_that_does_not_answer_is_named_and_the_others_are_served(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with fleet(cluster, namespace, tmp_path, "a") as running:
        running.synced(1)
        silent = running.pods.add("z", address())
        set_ttft(cluster, namespace, "70ms")
        eventually(lambda: running.hashes() == {document_of(cluster, namespace, "one")["hash"]} or None)

        def lagging() -> Json:
            status = cluster.status(namespace, "one")
            assert status["profile"]["laggingReplicas"] == 1, status
            assert status["profile"]["desired"]["revision"] == 2, status
            return dict(status["profile"]["lagging"][0])

        found = eventually(lagging)
        assert found["pod"] == silent["metadata"]["name"]
        assert found["reason"].startswith("unreachable: ")
        assert cluster.condition(namespace, "one", "ProfileSynced")["status"] == "False"
        cluster.delete(POD, namespace, silent["metadata"]["name"])
        running.synced(2)
