"""A node is drained and pods are killed while clients stream: they see what clients of vLLM would see."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .conftest import Kubectl, Object, until
from .load import CLIENTS, WHOLE, streams

SERVER: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "SimulatedModelServer",
    "metadata": {"name": "steady"},
    "spec": {
        "model": {"name": "ghostfleet/steady", "servedNames": ["steady"]},
        "replicas": 2,
        "profile": {"simple": {"timeToFirstToken": "100ms", "interTokenLatency": "20ms"}},
        "networking": {"serviceType": "NodePort"},
        "pod": {"terminationGracePeriodSeconds": 30},
    },
}
PODS = ("pods", "-l", "ghostfleet.dev/server=steady")
WORKERS = ("nodes", "-l", "!node-role.kubernetes.io/control-plane")


@pytest.fixture
def base_url(kubectl: Kubectl) -> Iterator[str]:
    """The node port of a server that is Ready."""
    kubectl.apply(SERVER)
    kubectl("wait", "sms/steady", "--for=condition=Ready", "--timeout=120s")
    yield f"{kubectl.node_url('steady')}/v1"
    kubectl("delete", "sms/steady", "--wait")


def serving(kubectl: Kubectl) -> list[Object]:
    """The pods that are Ready and stay, those of an earlier test not among them."""
    return [pod for pod in kubectl.items(*PODS) if _ready(pod) and "deletionTimestamp" not in pod["metadata"]]


def _ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


def replaced(kubectl: Kubectl, gone: str) -> bool:
    """Whether two pods serve and `gone`, the UID of one, is not among them."""
    uids = {pod["metadata"]["uid"] for pod in serving(kubectl)}
    return len(uids) == 2 and gone not in uids


def test_a_drained_node_loses_no_request(kubectl: Kubectl, base_url: str) -> None:
    """Evicted pods end their streams first; the server has its replicas again on the nodes that are left."""
    workers = {node["metadata"]["name"] for node in kubectl.items(*WORKERS)}
    assert len(workers) >= 2, "the cluster needs two workers (E2E_WORKERS)"
    pod = next(pod for pod in serving(kubectl) if pod["spec"]["nodeName"] in workers)
    node = pod["spec"]["nodeName"]
    try:
        with streams(base_url, "steady") as load:
            time.sleep(1)
            kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s")
            until("the evicted pod replaced", lambda: replaced(kubectl, pod["metadata"]["uid"]), 120)
        assert load.endings.total() >= CLIENTS
        assert set(load.endings) == {WHOLE}, load.endings
        assert node not in {pod["spec"]["nodeName"] for pod in serving(kubectl)}
        kubectl("wait", "sms/steady", "--for=condition=Ready", "--timeout=60s")
    finally:
        kubectl("uncordon", node)


def test_a_killed_pod_takes_its_own_streams_with_it_and_no_others(kubectl: Kubectl, base_url: str) -> None:
    """Clients of that pod see a connection that breaks, as with a real server; the rest see nothing."""
    pod = serving(kubectl)[0]["metadata"]
    with streams(base_url, "steady") as load:
        time.sleep(1)
        kubectl("delete", "pod", pod["name"], "--grace-period=0", "--force")
        until("the killed pod replaced", lambda: replaced(kubectl, pod["uid"]), 120)
        time.sleep(3)
    broken = {ending: times for ending, times in load.endings.items() if ending != WHOLE}
    # Each client has one stream at a time, and may meet the dead address once more before the Service forgets it.
    assert sum(broken.values()) <= 2 * CLIENTS, load.endings
    assert load.endings[WHOLE] > sum(broken.values()), load.endings
    kubectl("wait", "sms/steady", "--for=condition=Ready", "--timeout=60s")
    with streams(base_url, "steady") as after:
        time.sleep(1)
    assert set(after.endings) == {WHOLE}, after.endings
