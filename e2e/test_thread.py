"""One real thread: from two YAML objects to a token streamed through a Service, and back to nothing."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import openai
import pytest

from .conftest import Kubectl, Object, until

PROFILE: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "LatencyProfile",
    "metadata": {"name": "mid-size"},
    "spec": {"simple": {"timeToFirstToken": "200ms", "interTokenLatency": "20ms"}},
}
SERVER: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "SimulatedModelServer",
    "metadata": {"name": "alpha"},
    "spec": {
        "model": {"name": "ghostfleet/alpha", "servedNames": ["alpha"]},
        "replicas": 3,
        "profileRef": {"name": "mid-size"},
        "networking": {"serviceType": "NodePort"},
        "answers": {"mode": "Random"},
    },
}
PODS = ("pods", "-l", "ghostfleet.dev/server=alpha")


@pytest.fixture(scope="module")
def fleet(kubectl: Kubectl) -> Kubectl:
    """The objects applied and Ready."""
    kubectl.apply(PROFILE, SERVER)
    kubectl("wait", "sms/alpha", "--for=condition=Ready", "--timeout=120s")
    return kubectl


@pytest.fixture(scope="module")
def client(fleet: Kubectl) -> openai.OpenAI:
    """The unmodified SDK against the node port of the Service."""
    return openai.OpenAI(base_url=f"{fleet.node_url('alpha')}/v1", api_key="none", max_retries=0, timeout=30)


def stream(client: openai.OpenAI, max_tokens: int) -> tuple[float, int, str | None]:
    """Seconds to the first token, number of tokens by `usage`, finish reason."""
    began, first, tokens, reason = time.monotonic(), 0.0, 0, None
    for chunk in client.chat.completions.create(
        model="alpha",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ):
        first = first or time.monotonic() - began
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
        elif chunk.choices[0].finish_reason:
            reason = chunk.choices[0].finish_reason
    return first, tokens, reason


def condition(server: Object, name: str) -> Object:
    found: Object = next(c for c in server["status"]["conditions"] if c["type"] == name)
    return found


def identities(kubectl: Kubectl) -> dict[str, int]:
    """Restarts by UID of every pod that is not on its way out."""
    return {
        pod["metadata"]["uid"]: sum(s["restartCount"] for s in pod["status"].get("containerStatuses", []))
        for pod in kubectl.items(*PODS)
        if "deletionTimestamp" not in pod["metadata"]
    }


def test_three_replicas_become_ready_and_are_told_of(fleet: Kubectl) -> None:
    """Status, printer columns and the endpoints file agree with the pods."""
    server = fleet.get("sms", "alpha")
    status = server["status"]
    assert status["observedGeneration"] == server["metadata"]["generation"]
    for name in ("Ready", "ProfileResolved", "ProfileSynced", "WorkloadAvailable"):
        assert condition(server, name)["status"] == "True", condition(server, name)
    assert (status["replicas"], status["readyReplicas"]) == (3, 3)
    addresses = {pod["status"]["podIP"] for pod in fleet.items(*PODS)}
    assert {endpoint["address"] for endpoint in status["endpoints"]} == addresses
    listed = json.loads(fleet.get("configmap", "alpha-endpoints")["data"]["endpoints.yaml"])["endpoints"]
    assert {entry["address"] for entry in listed} == addresses
    assert "mid-size" in fleet("get", "sms", "alpha")


def test_tokens_stream_through_the_service(client: openai.OpenAI) -> None:
    """The SDK, the node port, kube-proxy, a pod: 200 ms to the first token and every token counted."""
    first, tokens, reason = stream(client, 25)
    assert (tokens, reason) == (25, "length")
    assert 0.2 <= first < 1.5


def test_the_service_has_a_name_in_the_cluster(fleet: Kubectl) -> None:
    """A pod of the fleet reaches another by DNS; its file system is read-only and it holds no API token."""
    script = (
        "import httpx, os, sys;"
        f"print(httpx.get('http://alpha.{fleet.namespace}.svc:8000/v1/models').json()['data'][0]['id']);"
        f"print(httpx.get('http://alpha-headless.{fleet.namespace}.svc:8000/health').status_code);"
        "print(os.path.exists('/var/run/secrets/kubernetes.io')); print(os.getuid());"
        "print(os.access('/opt', os.W_OK) or os.access('/', os.W_OK))"
    )
    pod = fleet.items(*PODS)[0]["metadata"]["name"]
    assert fleet("exec", pod, "--", "python3", "-c", script).split() == ["alpha", "200", "False", "65532", "False"]


def test_a_profile_patch_reaches_every_pod_without_a_restart(
    fleet: Kubectl, client: openai.OpenAI, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stream that is open goes on; the next request has the new time; no pod is replaced or restarted."""
    before = identities(fleet)
    assert len(before) == 3
    old = fleet.get("sms", "alpha")["status"]["profile"]["desired"]["hash"]
    open_stream: list[tuple[float, int, str | None]] = []
    thread = threading.Thread(target=lambda: open_stream.append(stream(client, 150)))
    thread.start()
    time.sleep(0.5)
    patch = {"spec": {"simple": {"timeToFirstToken": "900ms"}}}
    began = time.monotonic()
    fleet("patch", "lprof", "mid-size", "--type=merge", "-p", json.dumps(patch))

    def synced() -> Object | None:
        server = fleet.get("sms", "alpha")
        fresh = server["status"]["profile"]["desired"]["hash"] != old
        return server if fresh and condition(server, "ProfileSynced")["status"] == "True" else None

    server = until("ProfileSynced with the new hash", synced)
    seconds = time.monotonic() - began
    record_property("patch_to_profile_synced_seconds", round(seconds, 3))
    with capsys.disabled():
        print(f"\nfrom the patch to ProfileSynced on 3 pods: {seconds:.2f} s")
    assert server["status"]["profile"]["syncedReplicas"] == 3
    assert stream(client, 5)[0] >= 0.9
    thread.join()
    assert open_stream[0][1:] == (150, "length")
    assert identities(fleet) == before


def test_scaling_goes_through_the_scale_subresource(fleet: Kubectl) -> None:
    """`kubectl scale` up and down; a new pod has the profile in force before it is ready."""
    for replicas in (5, 2):
        fleet("scale", "sms/alpha", f"--replicas={replicas}")

        def scaled(replicas: int = replicas) -> bool:
            server = fleet.get("sms", "alpha")
            status = server["status"]
            return (
                status["observedGeneration"] == server["metadata"]["generation"]
                and status.get("readyReplicas") == replicas
                and len(identities(fleet)) == replicas
                and condition(server, "Ready")["status"] == "True"
                and status["profile"]["syncedReplicas"] == replicas
            )

        until(f"{replicas} replicas", scaled, 120)


def test_bad_objects_are_answered_with_the_field(fleet: Kubectl) -> None:
    """Both inline and referenced, a misspelt field, a wrong unit: refused, or told in the status."""
    both = json.loads(json.dumps(SERVER)) | {"metadata": {"name": "both"}}
    both["spec"]["profile"] = {"simple": {"timeToFirstToken": "1s"}}
    with pytest.raises(pytest.fail.Exception, match=r"profileRef"):
        fleet.apply(both)
    misspelt = json.loads(json.dumps(PROFILE)) | {"metadata": {"name": "misspelt"}}
    misspelt["spec"]["simple"]["timeToFirstTokn"] = "1s"
    with pytest.raises(pytest.fail.Exception, match=r"timeToFirstTokn"):
        fleet.apply(misspelt)
    unit = json.loads(json.dumps(PROFILE)) | {"metadata": {"name": "unit"}}
    unit["spec"]["simple"]["timeToFirstToken"] = "20 parsecs"
    with pytest.raises(pytest.fail.Exception, match=r"spec\.simple\.timeToFirstToken"):
        fleet.apply(unit)
    missing = json.loads(json.dumps(SERVER)) | {"metadata": {"name": "missing"}}
    missing["spec"] |= {"profileRef": {"name": "not-there"}, "replicas": 1}
    fleet.apply(missing)
    fleet("wait", "sms/missing", "--for=condition=ProfileResolved=False", "--timeout=30s")
    assert "not-there" in condition(fleet.get("sms", "missing"), "ProfileResolved")["message"]
    assert not fleet.items("deployments", "-l", "ghostfleet.dev/server=missing")
    fleet("delete", "sms/missing", "--wait")


def test_deletion_leaves_nothing_behind(fleet: Kubectl) -> None:
    """The garbage collector takes every child with its server."""
    fleet("delete", "sms/alpha", "lprof/mid-size", "--wait")
    kinds = "deployments,replicasets,pods,services,endpointslices,secrets,configmaps"

    def left() -> list[str]:
        return [
            f"{item['kind']}/{item['metadata']['name']}"
            for item in fleet.items(kinds)
            if item["metadata"]["name"] != "kube-root-ca.crt"
        ]

    until("nothing left", lambda: not left(), 90)
