"""A pass that is cut off at any call to the API leaves nothing that the next pass, by a new process, does not mend."""

from __future__ import annotations

import pytest
from tests.apiserver.cluster import Cluster, Json, document_of, server, unchanged
from tests.apiserver.control_plane import ControlPlane
from tests.apiserver.passes import Broken, processes

from ghostfleet_operator.plan.kubernetes import ChildNames
from ghostfleet_operator.reconcile.api import CHILDREN, SECRET, SERVER


def outcome(cluster: Cluster, namespace: str, name: str) -> Json:
    """Everything of a server that a user can see, without what differs between any two servers."""
    uid = cluster.must_get(SERVER, namespace, name)["metadata"]["uid"]
    secret = ChildNames.of(name, uid).secret
    children = {
        f"{kind.name}/{obj['metadata']['name'].removeprefix(name)}": (obj.get("spec"), sorted(obj.get("data", {})))
        for kind in CHILDREN
        for obj in cluster.list(kind, namespace)
        if obj["metadata"]["name"].split("-")[0] == name
    }
    for spec, _ in children.values():
        for key in ("clusterIP", "clusterIPs"):
            (spec or {}).pop(key, None)
    status = cluster.status(namespace, name)
    conditions = [(c["type"], c["status"], c["reason"]) for c in status["conditions"]]
    text = repr((children, conditions, status["profile"]["desired"]["hash"], status["observedGeneration"]))
    assert cluster.get(SECRET, namespace, secret) is not None
    return {
        "text": text.replace(secret, "SECRET").replace(name, "NAME"),
        "hash": document_of(cluster, namespace, name)["hash"],
    }


@pytest.mark.parametrize("sent", [False, True], ids=["before it is sent", "before the answer comes"])
def test_a_pass_cut_off_at_any_call_is_completed_by_the_next_process(
    plane: ControlPlane, cluster: Cluster, namespace: str, sent: bool
) -> None:
    with processes(plane) as (runner, process):
        cluster.create(server(namespace, "whole"))
        calls = runner.run(process.one_pass(namespace, "whole"))
        assert calls > 12
        wanted = outcome(cluster, namespace, "whole")
        for at in range(1, calls + 1):
            name = f"cut{at:03}"
            cluster.create(server(namespace, name))
            # An Event that is lost is the one thing that stays lost, and it does not fail the pass.
            try:
                runner.run(process.one_pass(namespace, name, at, sent=sent))
            except Broken:
                runner.run(process.one_pass(namespace, name))
            assert outcome(cluster, namespace, name) == wanted, f"cut at call {at} of {calls}"
            if at % 5 == 0:
                with unchanged(cluster, namespace):
                    runner.run(process.one_pass(namespace, name))


def test_a_change_cut_off_at_any_call_is_completed_and_spends_one_revision(
    plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    with processes(plane) as (runner, process):
        cluster.create(server(namespace, "one"))
        calls = runner.run(process.one_pass(namespace, "one"))
        for at in range(1, calls + 1):
            ttft = f"{at + 100}ms"
            cluster.merge(SERVER, namespace, "one", {"spec": {"profile": {"simple": {"timeToFirstToken": ttft}}}})
            for sent in (False, True):
                try:
                    runner.run(process.one_pass(namespace, "one", at, sent=sent))
                except Broken:
                    continue
            runner.run(process.one_pass(namespace, "one"))
            document = document_of(cluster, namespace, "one")
            assert document["config"]["profile"]["simple"]["timeToFirstToken"] == ttft
            assert document["revision"] == at + 1, f"cut at call {at} of {calls}"
            assert cluster.status(namespace, "one")["profile"]["desired"]["revision"] == at + 1
