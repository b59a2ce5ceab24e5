"""What the tools of a cluster's people see: `kubectl wait`, Argo CD, an autoscaler."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import shell
from e2e.build import binaries
from tests.apiserver.cluster import Cluster, Json, Pods, Rejected, eventually, path, profile, server
from tests.apiserver.control_plane import ControlPlane
from tests.apiserver.fleet import fleet, set_ttft
from tests.lua import health

from ghostfleet_operator.reconcile.api import PROFILE, SERVER

pytestmark = pytest.mark.usefixtures("operator")


def healthy(cluster: Cluster, namespace: str, status: str, part: str, name: str = "one") -> Json:
    """The server, once Argo CD's check gives it a status and a message with this part."""

    def look() -> Json:
        found = cluster.must_get(SERVER, namespace, name)
        said = health(SERVER.name, found)
        assert said[0] == status, said
        assert part in said[1], said
        return found

    return eventually(look, within=30)


def test_argo_cd_sees_a_server_through_its_life(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.create(server(namespace, "alone", profile=None, profileRef={"name": "missing"}))
    healthy(cluster, namespace, "Progressing", "'missing'", "alone")
    with fleet(cluster, namespace, tmp_path, "a") as running:
        healthy(cluster, namespace, "Healthy", "")
        cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 2}})
        healthy(cluster, namespace, "Progressing", "")
        running.start("b")
        healthy(cluster, namespace, "Healthy", "")
        invalid = {"spec": {"pod": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}}}
        cluster.merge(SERVER, namespace, "one", invalid)
        healthy(cluster, namespace, "Degraded", "spec.pod.resources")
    cluster.create(server(namespace, "still", suspend=True))
    Pods(cluster, namespace, "still").report()
    healthy(cluster, namespace, "Suspended", "", "still")


def test_argo_cd_sees_whether_a_profile_is_valid(cluster: Cluster, namespace: str) -> None:
    cluster.create(profile(namespace, "good"))
    # The API server's schema cannot compare two durations; the operator can.
    cluster.create(profile(namespace, "odd", "10ms", timeToFirstTokenStdDev="9ms"))
    for name, wanted in (("good", "Healthy"), ("odd", "Degraded")):
        eventually(
            lambda n=name, w=wanted: health(PROFILE.name, cluster.must_get(PROFILE, namespace, n))[0] == w or None
        )


@contextlib.contextmanager
def kubectl(plane: ControlPlane, namespace: str, *arguments: str) -> Iterator[None]:
    """A kubectl that runs until it ends by itself, which it must do well."""
    try:
        program = binaries.ensure(["kubectl"]) / "kubectl"
    except shell.Failure as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"kubectl must be there in CI: {error}", pytrace=False)
        pytest.skip(f"no kubectl can be built: {str(error).splitlines()[0]}")
    command = [str(program), "--kubeconfig", str(plane.kubeconfig), "-n", namespace, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        yield
        said, _ = child.communicate(timeout=90)
    assert child.returncode == 0, said


def test_kubectl_wait_ends_when_it_is_true(
    plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """The examples of the documentation, as they are there."""
    ready = ("wait", "--for=condition=Ready", "simulatedmodelserver/one", "--timeout=60s")
    with fleet(cluster, namespace, tmp_path) as running:
        cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 1}})
        with kubectl(plane, namespace, *ready):
            assert cluster.condition(namespace, "one", "Ready").get("status") != "True"
            running.start("a")
        running.synced(1)
        two = ("wait", "--for=jsonpath={.status.profile.desired.revision}=2", "sms/one", "--timeout=60s")
        with kubectl(plane, namespace, *two):
            set_ttft(cluster, namespace, "31ms")
        with kubectl(plane, namespace, "wait", "--for=condition=ProfileSynced", "sms", "--all", "--timeout=60s"):
            pass
        running.synced(2)


def test_an_autoscaler_finds_replicas_and_pods_by_the_scale_subresource(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """As the horizontal pod autoscaler works: it reads the scale, lists the pods of the selector, writes the scale."""
    with fleet(cluster, namespace, tmp_path, "a", "b") as running:
        running.synced(1)

        def scale(replicas: int) -> Json:
            found = cluster.call("GET", path(SERVER, namespace, "one") + "/scale")
            assert (found["spec"]["replicas"], found["status"]["replicas"]) == (replicas, len(running.addresses))
            return found

        selector = eventually(lambda: scale(2))["status"]["selector"]
        pods = cluster.call("GET", f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)["items"]
        assert {pod["status"]["podIP"] for pod in pods} == set(running.addresses.values())
        cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 3}}, "/scale")
        eventually(lambda: scale(3))
        running.start("c")
        eventually(lambda: scale(3))
        with pytest.raises(Rejected):
            cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": -1}}, "/scale")
