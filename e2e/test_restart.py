"""Pods are replaced one after another while clients stream: nobody notices."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from .conftest import Kubectl, Object, until
from .load import CLIENTS, WHOLE, streams

SERVER: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "SimulatedModelServer",
    "metadata": {"name": "rolling"},
    "spec": {
        "model": {"name": "ghostfleet/rolling", "servedNames": ["rolling"]},
        "replicas": 2,
        "profile": {"simple": {"timeToFirstToken": "100ms", "interTokenLatency": "20ms"}},
        "networking": {"serviceType": "NodePort"},
        "pod": {"terminationGracePeriodSeconds": 30},
    },
}
PODS = ("pods", "-l", "ghostfleet.dev/server=rolling")


@pytest.fixture
def base_url(kubectl: Kubectl) -> Iterator[str]:
    """The node port of a server that is Ready."""
    kubectl.apply(SERVER)
    kubectl("wait", "sms/rolling", "--for=condition=Ready", "--timeout=120s")
    yield f"{kubectl.node_url('rolling')}/v1"
    kubectl("delete", "sms/rolling", "--wait")


def test_a_change_that_replaces_every_pod_loses_no_request(kubectl: Kubectl, base_url: str) -> None:
    """Old pods leave the Service before they refuse anything, and end when their last stream has ended."""
    before = {pod["metadata"]["uid"] for pod in kubectl.items(*PODS)}

    def replaced() -> bool:
        pods = {pod["metadata"]["uid"] for pod in kubectl.items(*PODS)}
        return len(pods) == 2 and not pods & before

    with streams(base_url, "rolling") as load:
        time.sleep(1)
        change = {"spec": {"scheduling": {"maxNumSeqs": 64}}}
        kubectl("patch", "sms", "rolling", "--type=merge", "-p", json.dumps(change))
        until("every pod replaced and gone", replaced, 120)
    assert load.endings.total() >= 3 * CLIENTS
    assert set(load.endings) == {WHOLE}, load.endings
