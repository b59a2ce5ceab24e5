"""The operator as a process against a real API server; the tests play the controllers that are not there."""

from __future__ import annotations

import time

from ghostfleet_operator.plan.kubernetes import ChildNames
from ghostfleet_operator.reconcile.api import CONFIG_MAP, DEPLOYMENT, PROFILE, SECRET, SERVER, SERVICE
from tests.apiserver.cluster import Cluster, document_of, eventually, names_of, profile, server, unchanged
from tests.apiserver.conftest import Operator


def children_of(cluster: Cluster, namespace: str, names: ChildNames) -> dict[str, dict[str, object]]:
    places = [
        (CONFIG_MAP, names.config),
        (SECRET, names.secret),
        (DEPLOYMENT, names.deployment),
        (SERVICE, names.service),
        (SERVICE, names.headless),
        (CONFIG_MAP, names.endpoints),
    ]
    return {f"{kind.name}/{name}": cluster.must_get(kind, namespace, name) for kind, name in places}


def test_a_server_gets_its_children_with_owner_references_and_a_status(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    made = cluster.create(server(namespace, "one", replicas=3))
    names = ChildNames.of("one", made["metadata"]["uid"])
    found = eventually(lambda: children_of(cluster, namespace, names))
    for child in found.values():
        owner = child["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["uid"], owner["controller"]) == (SERVER.name, made["metadata"]["uid"], True)
    assert found["Deployment/one"]["spec"]["replicas"] == 3
    status = eventually(lambda: cluster.status(namespace, "one"))
    assert status["observedGeneration"] == 1
    assert cluster.condition(namespace, "one", "ProfileResolved")["status"] == "True"
    assert cluster.condition(namespace, "one", "Ready")["status"] != "True", "no pod runs yet"
    assert cluster.condition(namespace, "one", "Reconciling")["status"] == "True"
    assert document_of(cluster, namespace, "one")["revision"] == 1


def test_the_same_input_again_writes_nothing(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.create(profile(namespace, "shared"))
    cluster.create(server(namespace, "one", profile=None, profileRef={"name": "shared"}))
    eventually(lambda: cluster.condition(namespace, "one", "ProfileResolved")["status"] == "True" or None)
    eventually(lambda: cluster.must_get(PROFILE, namespace, "shared")["status"]["usedBy"] == 1 or None)
    time.sleep(0.5)
    passes = operator.metric('ghostfleet_operator_reconcile_total{kind="SimulatedModelServer",result="done"}')
    with unchanged(cluster, namespace):
        time.sleep(5)
    more = operator.metric('ghostfleet_operator_reconcile_total{kind="SimulatedModelServer",result="done"}') - passes
    assert more >= 1, "it was looked at meanwhile"
