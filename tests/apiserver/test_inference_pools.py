"""An InferencePool on request: with the CRD of the Gateway API Inference Extension, and before there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.apiserver.cluster import Cluster, Json, condition, eventually, server
from tests.apiserver.conftest import StartOperator, with_inference_pools

from ghostfleet_operator.reconcile.api import DEPLOYMENT, INFERENCE_POOL, SERVER


@pytest.fixture
def installed(cluster: Cluster) -> Iterator[None]:
    with with_inference_pools(cluster):
        yield


@pytest.fixture
def operator(start_operator: StartOperator) -> Iterator[Any]:
    """One that makes pools and does not look at them by itself within a test: what it mends it was told by a watch."""
    with start_operator("--inference-pools", "--observe-seconds", "1", "--resync-seconds", "600") as started:
        yield started


def pooled(namespace: str, name: str, **pool: Any) -> Json:
    return server(namespace, name, networking={"inferencePool": pool})


def pool_of(cluster: Cluster, namespace: str, name: str) -> Json:
    return eventually(lambda: cluster.get(INFERENCE_POOL, namespace, name))


def applied(cluster: Cluster, namespace: str, name: str, reason: str) -> Json:
    """The condition, once it has the reason and is about the newest spec."""

    def look() -> Json:
        found = cluster.must_get(SERVER, namespace, name)
        told = condition(found, "InferencePoolApplied")
        assert told.get("reason") == reason, found.get("status")
        assert told["observedGeneration"] == found["metadata"]["generation"]
        return told

    return eventually(look)


@pytest.mark.usefixtures("installed", "operator")
def test_a_pool_is_made_kept_and_taken_away(cluster: Cluster, namespace: str) -> None:
    cluster.create(pooled(namespace, "one"))
    made = pool_of(cluster, namespace, "one")
    assert made["spec"]["selector"] == {"matchLabels": {"ghostfleet.dev/server": "one"}}
    assert made["spec"]["targetPorts"] == [{"number": 8000}]
    picker = {"group": "", "kind": "Service", "name": "one-epp", "port": {"number": 9002}, "failureMode": "FailClose"}
    assert made["spec"]["endpointPickerRef"] == picker
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("SimulatedModelServer", "one", True)
    told = applied(cluster, namespace, "one", "Applied")
    assert (told["status"], told["message"]) == ("True", "InferencePool 'one'")

    # Drift: a field changed, a label added to the selector, the whole of it deleted.
    for change in (
        {"endpointPickerRef": {"failureMode": "FailOpen"}},
        {"targetPorts": [{"number": 80}]},
        {"selector": {"matchLabels": {"canary": "yes"}}},
    ):
        cluster.merge(INFERENCE_POOL, namespace, "one", {"spec": change})
        eventually(lambda: pool_of(cluster, namespace, "one")["spec"] == made["spec"] or None)
    cluster.delete(INFERENCE_POOL, namespace, "one")
    assert pool_of(cluster, namespace, "one")["spec"] == made["spec"]
    assert eventually(lambda: cluster.events(namespace, "DriftCorrected"))

    # Another name is another pool; other fields are the same one.
    networking: Json = {"inferencePool": {"name": "two", "endpointPickerRef": {"name": "epp", "port": {"number": 7}}}}
    cluster.merge(SERVER, namespace, "one", {"spec": {"networking": networking}})
    picker = {"group": "", "kind": "Service", "name": "epp", "port": {"number": 7}, "failureMode": "FailClose"}
    assert pool_of(cluster, namespace, "two")["spec"]["endpointPickerRef"] == picker
    eventually(lambda: cluster.get(INFERENCE_POOL, namespace, "one") is None or None)
    networking["inferencePool"] |= {"selector": {"matchLabels": {"app": "both"}}}
    cluster.merge(SERVER, namespace, "one", {"spec": {"networking": networking}})
    labels = {"matchLabels": {"app": "both"}}
    eventually(lambda: pool_of(cluster, namespace, "two")["spec"]["selector"] == labels or None)

    cluster.merge(SERVER, namespace, "one", {"spec": {"networking": {"inferencePool": None}}})
    eventually(lambda: cluster.get(INFERENCE_POOL, namespace, "two") is None or None)
    eventually(lambda: not cluster.condition(namespace, "one", "InferencePoolApplied") or None)


@pytest.mark.usefixtures("installed", "operator")
def test_the_pool_of_somebody_else_is_left_alone_and_the_server_runs(cluster: Cluster, namespace: str) -> None:
    spec = {
        "selector": {"matchLabels": {"app": "other"}},
        "targetPorts": [{"number": 80}],
        "endpointPickerRef": {"name": "other", "port": {"number": 9002}},
    }
    meta = {"name": "one", "namespace": namespace}
    kind = {"apiVersion": INFERENCE_POOL.api_version, "kind": INFERENCE_POOL.name}
    before = cluster.create({**kind, "metadata": meta, "spec": spec})
    cluster.create(pooled(namespace, "one"))
    told = applied(cluster, namespace, "one", "NameConflict")
    assert "InferencePool 'one' exists and does not belong to this server" in told["message"]
    assert eventually(lambda: cluster.get(DEPLOYMENT, namespace, "one"))
    assert cluster.must_get(INFERENCE_POOL, namespace, "one")["metadata"]["generation"] == 1
    cluster.delete(INFERENCE_POOL, namespace, "one")
    assert applied(cluster, namespace, "one", "Applied")["status"] == "True"
    assert cluster.must_get(INFERENCE_POOL, namespace, "one")["metadata"]["uid"] != before["metadata"]["uid"]


@pytest.mark.usefixtures("operator")
def test_without_the_crd_all_else_is_made_and_it_goes_on_when_there_is_one(cluster: Cluster, namespace: str) -> None:
    cluster.create(pooled(namespace, "one"))
    told = applied(cluster, namespace, "one", "NotInstalled")
    assert told["status"] == "False"
    assert "InferencePool of inference.networking.k8s.io/v1; install its CRD" in told["message"]
    assert cluster.get(DEPLOYMENT, namespace, "one")
    assert eventually(lambda: cluster.events(namespace, "InferencePoolNotInstalled"))
    with with_inference_pools(cluster):
        assert applied(cluster, namespace, "one", "Applied")["status"] == "True"
        assert pool_of(cluster, namespace, "one")["spec"]["targetPorts"] == [{"number": 8000}]


def test_an_operator_that_was_not_told_to_says_so(
    cluster: Cluster, namespace: str, start_operator: StartOperator
) -> None:
    with start_operator():
        cluster.create(server(namespace, "one", networking={"inferencePool": {}}, replicas=0))
        told = applied(cluster, namespace, "one", "NotEnabled")
        assert "--inference-pools" in told["message"]
        assert eventually(lambda: cluster.get(DEPLOYMENT, namespace, "one"))
