"""An upgrade of CRDs, chart and operator from the commit in `e2e/upgrade/BASE`, with a cluster full of its objects."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.apiserver import hollow as clusters
from tests.apiserver.cluster import REPLICA_SET, Cluster, Json, document_of, eventually, profile, server
from tests.apiserver.control_plane import Unavailable, process
from tests.apiserver.hollow import Hollow
from tests.helm import helm

from ghostfleet_operator.reconcile.api import CHILDREN, DEPLOYMENT, POD, PROFILE, SECRET, SERVER

REPOSITORY = Path(__file__).parents[3]
BASE = (REPOSITORY / "e2e" / "upgrade" / "BASE").read_text().strip()
FLEET = {"inline": 2, "shared": 3}
"""Servers and their replicas."""
HEALTH_PORT = 8081
"""In a network namespace of the test's own."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it was at `BASE`."""
    done = subprocess.run(["git", "archive", BASE], cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == 0, f"{BASE} cannot be read; fetch the whole history: {done.stderr.decode()}"
    folder = tmp_path_factory.mktemp("base")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def before(base: Path, tmp_path: Path) -> Iterator[Hollow]:
    """A cluster with the CRDs and the chart of `BASE`."""
    running = clusters.running(tmp_path, lambda hollow: _helm(hollow, base, "install"))
    try:
        started = running.__enter__()
    except Unavailable as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"the API-server tier must run in CI: {error}", pytrace=False)
        pytest.skip(str(error).splitlines()[0])
    try:
        yield started
    finally:
        running.__exit__(None, None, None)


def _helm(hollow: Hollow, tree: Path, verb: str) -> None:
    command = [str(helm()), verb, "gf", str(tree / "charts" / "ghostfleet"), "--namespace", "default"]
    environment = {"HOME": str(hollow.plane.kubeconfig.parent), "PATH": os.defpath}
    done = subprocess.run(
        [*command, "--kubeconfig", str(hollow.plane.kubeconfig)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def _operator(hollow: Hollow, tree: Path, folder: Path) -> Iterator[None]:
    """The operator as it is in a tree, with that tree's simulator."""
    key = folder / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    command = [sys.executable, "-m", "ghostfleet_operator.cli.main", "operator", "--key-file", str(key)]
    command += ["--kubeconfig", str(hollow.plane.kubeconfig), "--namespace", "default"]
    command += ["--health-port", str(HEALTH_PORT)]
    path = os.pathsep.join(str(tree / part) for part in ("operator", "simulator"))
    with process(command, folder / f"operator-{tree.name}.log", {"PYTHONPATH": path}):
        yield


def _uids(cluster: Cluster) -> dict[str, str]:
    """The UID of everything that people made and of every child, by kind and name."""
    kinds = (SERVER, PROFILE, *CHILDREN, SECRET)
    return {
        f"{kind.name} {one['metadata']['name']}": one["metadata"]["uid"]
        for kind in kinds
        for one in cluster.list(kind, "default")
        if kind in (SERVER, PROFILE) or _owner(one) in FLEET
    }


def _owner(obj: Json) -> str:
    return next(
        (owner["name"] for owner in obj["metadata"].get("ownerReferences", []) if owner["kind"] == SERVER.name), ""
    )


def _ready(cluster: Cluster) -> bool:
    for name, replicas in FLEET.items():
        for aspect in ("Ready", "ProfileSynced"):
            found = cluster.condition("default", name, aspect)
            assert found["status"] == "True", found
        status = cluster.status("default", name)
        assert status["readyReplicas"] == status["profile"]["syncedReplicas"] == replicas, status
    return True


def _templates(cluster: Cluster) -> dict[str, Json]:
    return {name: cluster.must_get(DEPLOYMENT, "default", name)["spec"]["template"] for name in FLEET}


def _pods(cluster: Cluster, name: str) -> set[str]:
    return {
        pod["metadata"]["uid"]
        for pod in cluster.list(POD, "default")
        if pod["metadata"]["labels"].get("ghostfleet.dev/server") == name
    }


def _settled(cluster: Cluster) -> bool:
    """That every Deployment has rolled out its newest template, and the servers are as wanted."""
    for name, replicas in FLEET.items():
        deployment = cluster.must_get(DEPLOYMENT, "default", name)
        status = deployment["status"]
        assert status["observedGeneration"] == deployment["metadata"]["generation"]
        assert status["replicas"] == status["updatedReplicas"] == status["readyReplicas"] == replicas, status
    return _ready(cluster)


def _has_looked_at_all() -> bool:
    """That the operator has made a pass over each server since it started."""
    try:
        metrics = httpx.get(f"http://127.0.0.1:{HEALTH_PORT}/metrics", trust_env=False).text
    except httpx.HTTPError as error:
        raise AssertionError(error) from None
    begin = f'ghostfleet_operator_reconcile_total{{kind="{SERVER.name}"'
    passes = sum(float(row.rpartition(" ")[2]) for row in metrics.splitlines() if row.startswith(begin))
    assert passes >= len(FLEET)
    return True


def _kept(before: object, now: object) -> object:
    """What is left of a spec, without the defaults that newer fields add to it."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {field: _kept(value, now.get(field)) for field, value in before.items()}
    return now


def test_objects_survive_and_no_pod_restarts_without_need(before: Hollow, base: Path, tmp_path: Path) -> None:
    """Every object is the one it was; a server whose pod template is as it was keeps its pods, else it rolls once."""
    cluster = before.cluster
    with _operator(before, base, tmp_path):
        cluster.create(profile("default", "common", "30ms"))
        cluster.create(server("default", "inline", replicas=FLEET["inline"]))
        cluster.create(
            server("default", "shared", replicas=FLEET["shared"], profile=None, profileRef={"name": "common"})
        )
        eventually(lambda: _ready(cluster), within=60)
        cluster.merge(PROFILE, "default", "common", {"spec": {"simple": {"timeToFirstToken": "31ms"}}})
        eventually(lambda: document_of(cluster, "default", "shared")["revision"] == 2 or None)
        eventually(lambda: _ready(cluster))
    uids, templates = _uids(cluster), _templates(cluster)
    pods = {name: _pods(cluster, name) for name in FLEET}
    specs = {name: cluster.must_get(SERVER, "default", name)["spec"] for name in FLEET}
    revisions = {name: document_of(cluster, "default", name)["revision"] for name in FLEET}

    _helm(before, REPOSITORY, "upgrade")
    with _operator(before, REPOSITORY, tmp_path):
        eventually(_has_looked_at_all, within=60)
        eventually(lambda: _settled(cluster), within=60)

        now = _uids(cluster)
        assert {name: now.get(name) for name in uids} == uids, "an object was made anew"
        for name, spec in specs.items():
            assert _kept(spec, cluster.must_get(SERVER, "default", name)["spec"]) == spec
            assert document_of(cluster, "default", name)["revision"] >= revisions[name]
        for name, template in _templates(cluster).items():
            sets = [
                one for one in cluster.list(REPLICA_SET, "default") if one["metadata"]["name"].startswith(f"{name}-")
            ]
            if template == templates[name]:
                assert _pods(cluster, name) == pods[name], f"pods of {name} were replaced for nothing"
            assert len(sets) == 1 + (template != templates[name]), f"{name} was rolled more than once"

        # It is the new operator's now: a profile reaches the pods, which stay.
        pods = {name: _pods(cluster, name) for name in FLEET}
        cluster.merge(PROFILE, "default", "common", {"spec": {"simple": {"timeToFirstToken": "32ms"}}})
        eventually(lambda: document_of(cluster, "default", "shared")["revision"] > revisions["shared"] or None)
        eventually(lambda: _settled(cluster), within=30)
        assert {name: _pods(cluster, name) for name in FLEET} == pods
