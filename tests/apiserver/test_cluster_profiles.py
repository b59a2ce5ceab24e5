"""Profiles of the cluster: one for the servers of every namespace, hot-reloaded and reported on like the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.apiserver.cluster import Cluster, Json, cluster_profile, condition, document_of, eventually, profile, server
from tests.apiserver.fleet import Fleet

from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.reconcile.api import CLUSTER_PROFILE, CONFIG_MAP, PROFILE, SERVER

pytestmark = pytest.mark.usefixtures("operator")

_NUMBERS = itertools.count(1)


@pytest.fixture
def shared(cluster: Cluster) -> Iterator[str]:
    """Name of a profile of the cluster that is the test's own, and not there yet."""
    name = f"global-{next(_NUMBERS)}"
    yield name
    if cluster.get(CLUSTER_PROFILE, None, name):
        cluster.delete(CLUSTER_PROFILE, None, name)


def user(namespace: str, name: str, profile_name: str) -> Json:
    reference = {"kind": "ClusterLatencyProfile", "name": profile_name}
    return server(namespace, name, profile=None, profileRef=reference, replicas=1)


def ttft(cluster: Cluster, namespace: str, name: str) -> str:
    return str(document_of(cluster, namespace, name)["config"]["profile"]["simple"]["timeToFirstToken"])


def test_servers_of_two_namespaces_follow_one_profile(cluster: Cluster, namespace: str, shared: str) -> None:
    other = f"{namespace}-other"
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    cluster.create(cluster_profile(shared, "33ms"))
    # A LatencyProfile of the same name is another object.
    cluster.create(profile(namespace, shared, "99ms"))
    for where in (namespace, other):
        cluster.create(user(where, "one", shared))
        eventually(lambda w=where: ttft(cluster, w, "one") == "33ms" or None)
    source = eventually(lambda: cluster.status(namespace, "one")["profile"]["source"])
    assert (source["kind"], source["name"]) == ("ClusterLatencyProfile", shared)

    cluster.merge(CLUSTER_PROFILE, None, shared, {"spec": {"simple": {"timeToFirstToken": "44ms"}}})
    for where in (namespace, other):
        eventually(lambda w=where: ttft(cluster, w, "one") == "44ms" or None)
        assert document_of(cluster, where, "one")["revision"] == 2
    found = eventually(lambda: _used_by(cluster, shared, 2))
    assert condition(found, "Valid")["status"] == "True"
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"] == 2
    assert found["status"]["hash"]
    assert cluster.must_get(PROFILE, namespace, shared)["status"]["usedBy"] == 0

    cluster.delete(SERVER, other, "one")
    eventually(lambda: _used_by(cluster, shared, 1))


def _used_by(cluster: Cluster, name: str, count: int) -> Json:
    found = cluster.must_get(CLUSTER_PROFILE, None, name)
    assert found["status"]["usedBy"] == count
    return found


def test_a_missing_one_heals_and_a_deleted_one_leaves_its_servers_as_they_are(
    cluster: Cluster, namespace: str, shared: str
) -> None:
    cluster.create(user(namespace, "one", shared))
    gone = eventually(lambda: _resolved(cluster, namespace, "False"))
    assert gone["reason"] == "NotFound"
    assert gone["message"] == f"there is no ClusterLatencyProfile '{shared}'"
    cluster.create(cluster_profile(shared, "33ms"))
    eventually(lambda: _resolved(cluster, namespace, "True"))
    before = eventually(lambda: document_of(cluster, namespace, "one"))
    cluster.delete(CLUSTER_PROFILE, None, shared)
    eventually(lambda: _resolved(cluster, namespace, "False"))
    assert document_of(cluster, namespace, "one") == before


def _resolved(cluster: Cluster, namespace: str, status: str) -> Json:
    found = cluster.condition(namespace, "one", "ProfileResolved")
    assert found["status"] == status, found
    return found


def test_an_invalid_one_is_told_on_itself_and_stalls_its_users(cluster: Cluster, namespace: str, shared: str) -> None:
    cluster.create(cluster_profile(shared, "10ms", timeToFirstTokenStdDev="9ms"))
    cluster.create(user(namespace, "one", shared))
    stalled = eventually(lambda: cluster.condition(namespace, "one", "Stalled") or None)
    assert stalled["reason"] == "ProfileInvalid"
    found = eventually(lambda: _used_by(cluster, shared, 1))
    assert condition(found, "Valid")["status"] == condition(found, "Ready")["status"] == "False"
    assert condition(found, "Stalled")["status"] == "True"
    assert "30 %" in condition(found, "Valid")["message"]


def test_an_edit_is_live_on_running_pods_and_proven(
    cluster: Cluster, namespace: str, shared: str, tmp_path: Path
) -> None:
    cluster.create(cluster_profile(shared, "20ms"))
    uid = cluster.create(user(namespace, "one", shared))["metadata"]["uid"]
    eventually(lambda: cluster.must_get(CONFIG_MAP, namespace, ChildNames.of("one", uid).endpoints))
    running = Fleet(cluster, namespace, "one", tmp_path)
    with running.stack:
        running.start("a")
        running.synced(1)
        cluster.merge(CLUSTER_PROFILE, None, shared, {"spec": {"simple": {"timeToFirstToken": "150ms"}}})
        status = running.synced(2)
        assert running.hashes() == {status["profile"]["desired"]["hash"]}
