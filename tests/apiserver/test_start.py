"""Operators that come late, go away and come back, on an API server where no other one is at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from tests.apiserver import control_plane
from tests.apiserver.cluster import Cluster, Rejected, document_of, eventually, server
from tests.apiserver.conftest import CRDS, StartOperator
from tests.apiserver.control_plane import ControlPlane

from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.reconcile.api import CONFIG_MAP, DEPLOYMENT, SERVER


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane) -> Iterator[tuple[Cluster, ControlPlane]]:
    """An API server without our CRDs."""
    assert plane, "the session's API server shows that there can be one"
    with control_plane.running(tmp_path_factory.mktemp("empty")) as started, started.client() as client:
        cluster = Cluster(client)
        for name in ("mine", "other"):
            cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield cluster, started


def install_crds(cluster: Cluster) -> None:
    for file in CRDS.glob("*.yaml"):
        cluster.create(yaml.safe_load(file.read_text()))


def create(cluster: Cluster, namespace: str, name: str) -> ChildNames:
    """A server, as soon as its kind is served."""

    def attempt() -> ChildNames:
        try:
            return ChildNames.of(name, cluster.create(server(namespace, name))["metadata"]["uid"])
        except Rejected as error:
            raise AssertionError(str(error)) from None

    return eventually(attempt)


def test_operators_that_start_before_the_crds_stop_and_come_back(
    empty: tuple[Cluster, ControlPlane], start_operator: StartOperator
) -> None:
    cluster, plane = empty
    flags = ("--kubeconfig", str(plane.kubeconfig), "--namespace", "mine")
    with start_operator(*flags, wait=False) as operator:
        eventually(lambda: operator.readiness() == "waiting for the API server and the CRDs" or None, within=30)
        eventually(lambda: "install the CRDs" in operator.log.read_text() or None)
        install_crds(cluster)
        operator.until_ready()
        names = create(cluster, "mine", "one")
        eventually(lambda: cluster.must_get(DEPLOYMENT, "mine", names.deployment))
        eventually(lambda: cluster.status("mine", "one")["observedGeneration"])
        create(cluster, "other", "elsewhere")

    # While nobody watches: a loss, a change, a birth and a death.
    cluster.delete(CONFIG_MAP, "mine", names.config)
    cluster.merge(SERVER, "mine", "one", {"spec": {"replicas": 5}})
    later = create(cluster, "mine", "two")
    create(cluster, "mine", "gone")
    cluster.delete(SERVER, "mine", "gone")
    assert cluster.get(SERVER, "mine", "gone") is None, "no finalizer waits for the operator"

    with start_operator(*flags):
        eventually(lambda: document_of(cluster, "mine", "one")["revision"] == 2 or None)
        eventually(lambda: cluster.must_get(DEPLOYMENT, "mine", "one")["spec"]["replicas"] == 5 or None)
        eventually(lambda: cluster.must_get(DEPLOYMENT, "mine", later.deployment))
        eventually(lambda: cluster.status("mine", "one")["observedGeneration"] == 2 or None)
    assert not cluster.list(DEPLOYMENT, "other"), "it works where it is told to"
    assert "observedGeneration" not in cluster.status("other", "elsewhere")
