"""A cluster whose controllers are real and whose pods are hollow.

The real controller manager makes pods from Deployments and collects what has no owner, the real scheduler places them,
kwok says that they run, and one process answers the admin API at every pod address.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from e2e import shell
from e2e.build import binaries
from e2e.build.components import HOLLOW
from tests.apiserver import control_plane, netns
from tests.apiserver.cluster import CRD, Cluster, Json, condition, eventually
from tests.apiserver.control_plane import ControlPlane, Unavailable, process

from ghostfleet_operator.reconcile.api import Kind
from ghostfleet_operator.resolve import ADMIN_PORT

PODS = "10.244.0.0/16"
ANY_POD = "10.244.255.254"
STAGES = Path(__file__).parent / "stages.yaml"
CRDS = Path(__file__).parents[2] / "crds"
NODE = Kind("", "v1", "nodes", "Node")

# The rest of the controllers would only take time from what is tested.
_CONTROLLERS = "deployment-controller,replicaset-controller,garbage-collector-controller,namespace-controller"
_UNHURRIED = ("--kube-api-qps=2000", "--kube-api-burst=4000")


@dataclass(frozen=True)
class Hollow:
    """The running cluster and its administrator."""

    plane: ControlPlane
    cluster: Cluster


@contextlib.contextmanager
def running(folder: Path, prepare: Callable[[Hollow], None] | None = None) -> Iterator[Hollow]:
    """The cluster, in a network namespace of its own that the block runs in as well; raises Unavailable.

    `prepare` is done before there are controllers; without it the CRDs that are in the repository are installed.
    """
    try:
        programs = binaries.ensure(HOLLOW)
    except (shell.Failure, OSError) as error:
        raise Unavailable(f"no programs for a hollow cluster: {error}") from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(netns.isolated(PODS))
        plane = stack.enter_context(control_plane.running(folder, "--advertise-address=192.0.2.1"))
        cluster = Cluster(stack.enter_context(plane.client()))
        # The garbage collector would find a kind that came after it only half a minute later.
        hollow = Hollow(plane, cluster)
        if prepare is None:
            install(cluster)
        else:
            prepare(hollow)
        config = str(plane.kubeconfig)
        commands = {
            "kube-controller-manager": [
                *("--kubeconfig", config, "--leader-elect=false", f"--controllers={_CONTROLLERS}", *_UNHURRIED),
            ],
            "kube-scheduler": ["--kubeconfig", config, "--leader-elect=false", *_UNHURRIED],
            "kwok": ["--kubeconfig", config, "--manage-all-nodes=true", "--cidr", PODS, "--config", str(STAGES)],
        }
        for name, flags in commands.items():
            stack.enter_context(process([str(programs / name), *flags], folder / f"{name}.log"))
        command = [sys.executable, "-m", "tests.apiserver.admin_pods", str(ADMIN_PORT)]
        stack.enter_context(process(command, folder / "admin-pods.log"))
        _node(cluster)
        eventually(lambda: answers(f"http://{ANY_POD}:{ADMIN_PORT}/admin/ready"), within=30)
        yield hollow


def install(cluster: Cluster) -> None:
    """Install the CRDs that are in the repository."""
    made = [cluster.create(yaml.safe_load(file.read_text())) for file in sorted(CRDS.glob("*.yaml"))]
    for crd in made:
        eventually(functools.partial(_established, cluster, crd["metadata"]["name"]))


def _established(cluster: Cluster, name: str) -> bool:
    found = cluster.must_get(CRD, None, name)
    assert condition(found, "Established").get("status") == "True"
    return True


def _node(cluster: Cluster) -> None:
    """One node."""
    node: Json = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "hollow"}}
    cluster.call("POST", "/api/v1/nodes", node)
    # Admission puts a taint on every new node; the controller that would take it away is not here.
    cluster.merge(NODE, None, "hollow", {"spec": {"taints": None}})


def answers(url: str) -> bool:
    """That somebody answers 200; fails otherwise."""
    with contextlib.suppress(httpx.HTTPError):
        if httpx.get(url, trust_env=False).status_code == 200:
            return True
    raise AssertionError(f"nobody answers at {url}")
