"""The operator as a process against a real API server; the tests play the controllers that are not there."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.apiserver.cluster import (
    Cluster,
    Json,
    Pods,
    condition,
    document_of,
    eventually,
    profile,
    server,
    unchanged,
)
from tests.apiserver.conftest import Operator, StartOperator

from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.reconcile.api import CONFIG_MAP, DEPLOYMENT, POD, PROFILE, SECRET, SERVER, SERVICE

pytestmark = pytest.mark.usefixtures("operator")


def children_of(cluster: Cluster, namespace: str, names: ChildNames) -> dict[str, Json]:
    places = [
        (CONFIG_MAP, names.config),
        (SECRET, names.secret),
        (DEPLOYMENT, names.deployment),
        (SERVICE, names.service),
        (SERVICE, names.headless),
        (CONFIG_MAP, names.endpoints),
    ]
    return {f"{kind.name}/{name}": cluster.must_get(kind, namespace, name) for kind, name in places}


def made(cluster: Cluster, namespace: str, name: str = "one", **spec: Any) -> ChildNames:
    """A server with all its children and a first status."""
    created = cluster.create(server(namespace, name, **spec))
    names = ChildNames.of(name, created["metadata"]["uid"])
    eventually(lambda: children_of(cluster, namespace, names))
    eventually(lambda: cluster.status(namespace, name)["observedGeneration"])
    return names


def has(cluster: Cluster, namespace: str, name: str, aspect: str, status: str, reason: str | None = None) -> Json:
    """The condition, once it has this status and reason."""

    def look() -> Json:
        found = cluster.condition(namespace, name, aspect)
        assert found.get("status") == status, found
        assert reason in (None, found["reason"]), found
        return found

    return eventually(look)


def test_a_server_gets_its_children_with_owner_references_and_a_status(cluster: Cluster, namespace: str) -> None:
    names = made(cluster, namespace, replicas=3)
    uid = cluster.must_get(SERVER, namespace, "one")["metadata"]["uid"]
    found = children_of(cluster, namespace, names)
    for child in found.values():
        owner = child["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["uid"], owner["controller"]) == (SERVER.name, uid, True)
    assert found["Deployment/one"]["spec"]["replicas"] == 3
    assert has(cluster, namespace, "one", "ProfileResolved", "True")["observedGeneration"] == 1
    assert cluster.condition(namespace, "one", "Ready")["status"] != "True", "no pod runs yet"
    assert cluster.condition(namespace, "one", "Reconciling")["status"] == "True"
    assert document_of(cluster, namespace, "one")["revision"] == 1
    assert cluster.status(namespace, "one")["selector"] == "ghostfleet.dev/server=one"


def test_the_same_input_again_writes_nothing(cluster: Cluster, operator: Operator, namespace: str) -> None:
    cluster.create(profile(namespace, "shared"))
    pod = {
        "resources": {"limits": {"cpu": "0.5"}},
        "topologySpreadConstraints": [
            {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
    }
    networking = {"serviceType": "LoadBalancer", "serviceAnnotations": {"lb.example.com/internal": "true"}}
    made(cluster, namespace, profile=None, profileRef={"name": "shared"}, pod=pod, networking=networking)
    eventually(lambda: cluster.must_get(PROFILE, namespace, "shared")["status"]["usedBy"] == 1 or None)
    time.sleep(0.3)
    passes = operator.metric('ghostfleet_operator_reconcile_total{kind="SimulatedModelServer",result="done"}')
    with unchanged(cluster, namespace):
        time.sleep(4)  # longer than the operator leaves a server alone
    more = operator.metric('ghostfleet_operator_reconcile_total{kind="SimulatedModelServer",result="done"}') - passes
    assert more >= 1


def test_a_change_of_the_spec_reaches_the_children(cluster: Cluster, namespace: str) -> None:
    made(cluster, namespace, replicas=1)
    cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 4}}, "/scale")
    eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["replicas"] == 4 or None)
    cluster.merge(SERVER, namespace, "one", {"spec": {"suspend": True}})
    eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["replicas"] == 0 or None)
    eventually(lambda: cluster.status(namespace, "one")["observedGeneration"] == 3 or None)


def test_only_what_needs_a_restart_changes_the_pod_template(cluster: Cluster, namespace: str) -> None:
    made(cluster, namespace)
    template = cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["template"]
    patch = {"spec": {"profile": {"simple": {"timeToFirstToken": "99ms"}}}}
    cluster.merge(SERVER, namespace, "one", patch)
    eventually(lambda: document_of(cluster, namespace, "one")["revision"] == 2 or None)
    assert cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["template"] == template
    cluster.merge(SERVER, namespace, "one", {"spec": {"scheduling": {"maxNumSeqs": 7}}})
    eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["template"] != template or None)
    assert document_of(cluster, namespace, "one")["revision"] == 2, "the live part is the same"


@pytest.mark.parametrize(
    ("change", "repaired"),
    [
        (
            lambda c, ns, n: c.merge(DEPLOYMENT, ns, n.deployment, {"spec": {"replicas": 9}}),
            lambda c, ns, n: c.must_get(DEPLOYMENT, ns, n.deployment)["spec"]["replicas"] == 2,
        ),
        (
            lambda c, ns, n: c.merge(SERVICE, ns, n.service, {"spec": {"selector": {"ghostfleet.dev/server": "else"}}}),
            lambda c, ns, n: c.must_get(SERVICE, ns, n.service)["spec"]["selector"] == {"ghostfleet.dev/server": "one"},
        ),
        (
            lambda c, ns, n: c.delete(SERVICE, ns, n.headless),
            lambda c, ns, n: c.must_get(SERVICE, ns, n.headless)["spec"]["clusterIP"] == "None",
        ),
        (
            lambda c, ns, n: c.merge(CONFIG_MAP, ns, n.endpoints, {"data": {"endpoints.yaml": "gone"}}),
            lambda c, ns, n: "gone" not in c.must_get(CONFIG_MAP, ns, n.endpoints)["data"]["endpoints.yaml"],
        ),
    ],
    ids=["scaled", "edited", "deleted", "emptied"],
)
def test_a_child_that_drifted_is_repaired_and_the_repair_is_told(
    cluster: Cluster, namespace: str, change: Any, repaired: Any
) -> None:
    names = made(cluster, namespace)
    change(cluster, namespace, names)
    eventually(lambda: repaired(cluster, namespace, names) or None)
    event = eventually(lambda: cluster.events(namespace, "DriftCorrected")[0])
    assert event["involvedObject"]["name"] == "one"


def test_the_same_drift_again_raises_the_count_of_the_event_that_is_there(cluster: Cluster, namespace: str) -> None:
    names = made(cluster, namespace)
    for times in (1, 2, 3):
        cluster.merge(DEPLOYMENT, namespace, names.deployment, {"spec": {"replicas": 9}})
        eventually(lambda n=times: [e["count"] for e in cluster.events(namespace, "DriftCorrected")] == [n] or None)


def test_what_others_add_to_a_child_stays(cluster: Cluster, namespace: str) -> None:
    names = made(cluster, namespace, replicas=1)
    patch = {"metadata": {"labels": {"team": "blue"}, "annotations": {"note": "mine"}}}
    cluster.merge(DEPLOYMENT, namespace, names.deployment, patch)
    cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 2}})
    eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["replicas"] == 2 or None)
    meta = cluster.must_get(DEPLOYMENT, namespace, "one")["metadata"]
    assert meta["labels"]["team"] == "blue"
    assert meta["annotations"]["note"] == "mine"
    assert not cluster.events(namespace, "DriftCorrected")


def test_a_missing_profile_is_a_condition_and_heals_when_it_comes(cluster: Cluster, namespace: str) -> None:
    cluster.create(server(namespace, "one", profile=None, profileRef={"name": "later"}))
    found = has(cluster, namespace, "one", "ProfileResolved", "False", "NotFound")
    assert "'later'" in found["message"]
    has(cluster, namespace, "one", "Ready", "False", "ProfileNotFound")
    assert cluster.get(DEPLOYMENT, namespace, "one") is None, "nothing is started with a guess"
    assert eventually(lambda: cluster.events(namespace, "ProfileNotFound")[0])["type"] == "Warning"
    cluster.create(profile(namespace, "later", "33ms"))
    has(cluster, namespace, "one", "ProfileResolved", "True")
    document = eventually(lambda: document_of(cluster, namespace, "one"))
    assert document["config"]["profile"]["simple"]["timeToFirstToken"] == "33ms"
    eventually(lambda: cluster.get(DEPLOYMENT, namespace, "one"))
    names = ChildNames.of("one", cluster.must_get(SERVER, namespace, "one")["metadata"]["uid"])
    cluster.must_get(SECRET, namespace, names.secret)  # its pods cannot start without


def test_a_profile_deleted_while_in_use_leaves_its_servers_as_they_are(cluster: Cluster, namespace: str) -> None:
    cluster.create(profile(namespace, "shared", "33ms"))
    names = made(cluster, namespace, profile=None, profileRef={"name": "shared"})
    before = children_of(cluster, namespace, names)
    cluster.delete(PROFILE, namespace, "shared")
    has(cluster, namespace, "one", "ProfileResolved", "False", "NotFound")
    assert children_of(cluster, namespace, names) == before
    cluster.create(profile(namespace, "shared", "44ms"))
    has(cluster, namespace, "one", "ProfileResolved", "True")
    eventually(lambda: document_of(cluster, namespace, "one")["revision"] == 2 or None)


def test_a_profile_says_whether_it_is_valid_and_who_uses_it(cluster: Cluster, namespace: str) -> None:
    cluster.create(profile(namespace, "good"))
    # The API server's schema cannot compare two durations; the operator can.
    cluster.create(profile(namespace, "odd", "10ms", timeToFirstTokenStdDev="9ms"))
    made(cluster, namespace, profile=None, profileRef={"name": "good"})
    cluster.create(server(namespace, "two", profile=None, profileRef={"name": "odd"}))
    has(cluster, namespace, "two", "ProfileResolved", "False", "Invalid")
    assert "timeToFirstTokenStdDev" in has(cluster, namespace, "two", "Stalled", "True", "ProfileInvalid")["message"]
    good = eventually(lambda: with_users(cluster, namespace, "good", 1))
    assert condition(good, "Valid")["status"] == "True"
    odd = eventually(lambda: with_users(cluster, namespace, "odd", 1))
    assert condition(odd, "Valid")["status"] == "False"
    assert "30 %" in condition(odd, "Valid")["message"]
    cluster.delete(SERVER, namespace, "one")
    eventually(lambda: with_users(cluster, namespace, "good", 0))


def with_users(cluster: Cluster, namespace: str, name: str, count: int) -> Json:
    found = cluster.must_get(PROFILE, namespace, name)
    assert found["status"]["usedBy"] == count
    return found


def test_a_foreign_object_of_a_childs_name_stalls_the_server_and_stays_untouched(
    cluster: Cluster, namespace: str
) -> None:
    labels = {"app": "theirs"}
    foreign = cluster.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"namespace": namespace, "name": "one"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "x", "image": "theirs:1"}]},
                },
            },
        }
    )
    cluster.create(server(namespace, "one"))
    stalled = has(cluster, namespace, "one", "Stalled", "True", "NameConflict")
    assert "Deployment 'one' exists and does not belong to this server" in stalled["message"]
    has(cluster, namespace, "one", "Ready", "False", "NameConflict")
    assert (
        cluster.must_get(DEPLOYMENT, namespace, "one")["metadata"]["resourceVersion"]
        == (foreign["metadata"]["resourceVersion"])
    )
    assert not cluster.list(CONFIG_MAP, namespace), "nothing else is made either"
    assert eventually(lambda: cluster.events(namespace, "NameConflict")[0])["type"] == "Warning"
    cluster.delete(DEPLOYMENT, namespace, "one")
    cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 1}})
    eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "one")["metadata"]["ownerReferences"])
    eventually(lambda: not cluster.condition(namespace, "one", "Stalled") or None)
    assert document_of(cluster, namespace, "one")["revision"] == 1, "no revision was spent while it was stalled"


def test_a_deleted_config_map_is_rebuilt_with_a_greater_revision(cluster: Cluster, namespace: str) -> None:
    names = made(cluster, namespace)
    assert document_of(cluster, namespace, "one")["revision"] == 1
    cluster.delete(CONFIG_MAP, namespace, names.config)
    eventually(lambda: document_of(cluster, namespace, "one")["revision"] == 2 or None)
    eventually(lambda: cluster.status(namespace, "one")["profile"]["desired"]["revision"] == 2 or None)


def test_a_pod_that_only_wears_the_labels_is_not_counted(cluster: Cluster, namespace: str) -> None:
    made(cluster, namespace, replicas=1)
    pods = Pods(cluster, namespace, "one")
    impostor = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": "impostor", "labels": pods.template["metadata"]["labels"]},
        "spec": pods.template["spec"],
    }
    cluster.create(impostor)
    pods.set_ready("impostor", "127.9.9.9", ready=True)
    time.sleep(1.5)
    assert cluster.status(namespace, "one")["endpointCount"] == 0


def quiet(cluster: Cluster, namespace: str) -> bool:
    """Nothing is written for longer than both operators leave anything alone; two that quarrel never stop."""
    with unchanged(cluster, namespace):
        time.sleep(2.5)
    return True


def test_two_operators_at_once_do_no_harm(cluster: Cluster, start_operator: StartOperator, namespace: str) -> None:
    with start_operator("--observe-seconds", "1", "--resync-seconds", "2"):
        made(cluster, namespace)
        for n in range(5):
            patch = {"spec": {"profile": {"simple": {"timeToFirstToken": f"{n + 50}ms"}}}}
            cluster.merge(SERVER, namespace, "one", patch)
            time.sleep(0.1)
        eventually(
            lambda: (
                document_of(cluster, namespace, "one")["config"]["profile"]["simple"]["timeToFirstToken"] == "54ms"
                or None
            )
        )

        def settled() -> bool:
            status = cluster.status(namespace, "one")
            assert status["observedGeneration"] == cluster.must_get(SERVER, namespace, "one")["metadata"]["generation"]
            assert status["profile"]["desired"]["hash"] == document_of(cluster, namespace, "one")["hash"]
            return True

        eventually(settled)
        eventually(lambda: quiet(cluster, namespace), within=60)
    assert document_of(cluster, namespace, "one")["revision"] <= 6, "no two operators gave a number twice or in vain"


def test_ranks_have_ports_endpoints_and_an_annotation(cluster: Cluster, namespace: str) -> None:
    """A port for each rank in pods and Services; a pod that is told to leave one out is told of without it."""
    events = {"enableKvCacheEvents": True}
    names = made(cluster, namespace, dataParallelSize=3, dataParallelPortPerRank=True, kvEvents=events)
    service = cluster.must_get(SERVICE, namespace, names.headless)
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [
        *(("http", 8000), ("http-1", 8001), ("http-2", 8002)),
        *(("kv-events", 5557), ("kv-events-1", 5558), ("kv-events-2", 5559)),
    ]
    pods = Pods(cluster, namespace, "one")
    assert pods.template["metadata"]["annotations"]["llm-d.ai/active-ports"] == "8000,8001,8002"
    pods.add("a", "127.9.1.1")

    def found() -> list[tuple[int, int, str]]:
        endpoints = cluster.status(namespace, "one").get("endpoints") or []
        return [(each["rank"], each["port"], each["kvEvents"]["endpoint"]) for each in endpoints]

    every = [(rank, 8000 + rank, f"tcp://127.9.1.1:{5557 + rank}") for rank in range(3)]
    eventually(lambda: found() == every or None)
    note = {"metadata": {"annotations": {"llm-d.ai/active-ports": "8000,8002"}}}
    cluster.merge(POD, namespace, pods.name_of("a"), note)
    eventually(lambda: found() == [every[0], every[2]] or None)

    def listed() -> list[tuple[str, str]] | None:
        text = cluster.must_get(CONFIG_MAP, namespace, names.endpoints)["data"]["endpoints.yaml"]
        entries = [(each["name"], each["port"]) for each in json.loads(text)["endpoints"]]
        return entries if len(entries) == 2 else None

    pod = pods.name_of("a")
    assert eventually(listed) == [(f"{pod}-rank-0", "8000"), (f"{pod}-rank-2", "8002")]
    cluster.merge(SERVER, namespace, "one", {"spec": {"dataParallelSize": 2}})
    eventually(lambda: len(cluster.must_get(SERVICE, namespace, names.service)["spec"]["ports"]) == 2 or None)
