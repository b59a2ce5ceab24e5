"""Hot reload with real simulator processes in the place of pods."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from tests.apiserver.cluster import Cluster, Json, document_of, eventually
from tests.apiserver.conftest import Operator
from tests.apiserver.fleet import address, fleet, set_ttft

from ghostfleet_operator.reconcile.api import CONFIG_MAP, POD, SERVER
from ghostfleet_operator.resolve import PORT

pytestmark = pytest.mark.usefixtures("operator")


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


def test_a_late_file_never_undoes_a_push_and_a_lost_push_is_healed_by_the_file(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with fleet(cluster, namespace, tmp_path, "a", "b") as running:
        running.synced(1)
        running.pods.set_ready(
            running.pods.name_of("b"), address(), ready=True
        )  # nobody is there: pushes to b are lost
        late = (tmp_path / "a" / "server.json").read_text()
        set_ttft(cluster, namespace, "90ms")
        eventually(lambda: running.revision("a") == 2 or None)

        (tmp_path / "a" / "server.json").write_text(late + "\n")
        log = tmp_path / "a" / "log"
        eventually(lambda: "revision 1 is older than revision 2" in log.read_text() or None)
        assert running.revision("a") == 2
        assert running.revision("b") == 1

        running.refresh("b")
        eventually(lambda: running.revision("b") == 2 or None)
        assert running.hashes() == {document_of(cluster, namespace, "one")["hash"]}
        running.pods.set_ready(running.pods.name_of("b"), running.addresses["b"], ready=True)
        running.synced(2)
