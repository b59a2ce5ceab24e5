"""A HorizontalPodAutoscaler on a server: what its pods use decides how many they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import httpx
import pytest

from e2e.build import manifests

from .conftest import Kubectl, Object, until
from .load import Load

METRICS_API = "v1beta1.metrics.k8s.io"
SERVER: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "SimulatedModelServer",
    "metadata": {"name": "elastic"},
    "spec": {
        "model": {"name": "ghostfleet/elastic", "servedNames": ["elastic"]},
        "profile": {"simple": {}},
        "networking": {"serviceType": "NodePort"},
        "pod": {"terminationGracePeriodSeconds": 5},
    },
}
AUTOSCALER: Object = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "elastic"},
    "spec": {
        "scaleTargetRef": {
            "apiVersion": "ghostfleet.dev/v1alpha1",
            "kind": "SimulatedModelServer",
            "name": "elastic",
        },
        "minReplicas": 1,
        "maxReplicas": 2,
        "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "30m"}}}
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    },
}
CLIENTS = 2
ASK = {"model": "elastic", "prompt": "hello", "max_tokens": 16}


@pytest.fixture(scope="module")
def _metrics_api() -> Iterator[None]:
    """The cluster's own metrics API, or that of a metrics-server which runs while these tests do."""
    system = Kubectl("kube-system")
    if METRICS_API in system("get", "apiservices", "-o", "name"):
        yield
        return
    image = os.environ.get("GHOSTFLEET_METRICS_SERVER_IMAGE")
    if not image:
        pytest.skip("the cluster has no metrics API (metrics-server)")
    folder = str(manifests.metrics_server())
    system("apply", "--kustomize", folder)
    # Certificates of the kubelets of a kind cluster are their own.
    container = "/spec/template/spec/containers/0"
    change: list[Object] = [
        {"op": "replace", "path": f"{container}/image", "value": image},
        {"op": "add", "path": f"{container}/args/-", "value": "--kubelet-insecure-tls"},
    ]
    system("patch", "deployment", "metrics-server", "--type=json", "-p", json.dumps(change))
    system("wait", f"apiservice/{METRICS_API}", "--for=condition=Available", "--timeout=150s")
    yield
    system("delete", "--kustomize", folder, "--wait=false")


@pytest.mark.timeout(420)  # metrics of 15 s, looked at every 15 s, twice each way, on a busy machine
@pytest.mark.usefixtures("_metrics_api")
def test_a_busy_server_is_scaled_out_and_in_again(kubectl: Kubectl) -> None:
    """By the scale subresource; the pods that come are part of the server as any others are."""
    kubectl.apply(SERVER)
    kubectl("wait", "sms/elastic", "--for=condition=Ready", "--timeout=120s")
    url = f"{kubectl.node_url('elastic')}/v1/completions"
    kubectl.apply(AUTOSCALER)

    def send() -> str:
        return str(httpx.post(url, json=ASK, trust_env=False, timeout=30).status_code)

    def serves(replicas: int) -> bool:
        server = kubectl.get("sms", "elastic")
        told = (server["spec"]["replicas"], server["status"].get("readyReplicas"), server["status"]["endpointCount"])
        return told == (replicas,) * 3

    with Load(CLIENTS, send) as load:
        until("there are two pods", lambda: serves(2), 180)
    assert set(load.endings) == {"200"}, load.endings
    until("there is one pod again", lambda: serves(1), 180)
    conditions = {found["type"]: found["status"] for found in kubectl.get("hpa", "elastic")["status"]["conditions"]}
    assert (conditions["AbleToScale"], conditions["ScalingActive"]) == ("True", "True"), conditions
