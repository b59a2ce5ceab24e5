"""python3 -m e2e [PYTEST ARGUMENT...]: install the chart on a cluster and run the tests in e2e/ against it.

The cluster is that of KUBECONFIG, where that is set: its nodes must get at the images (IMAGE_PREFIX).
Otherwise a kind cluster is made, the images are built and loaded, and the cluster is deleted at the end, unless KEEP=1.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e import cache, diagnostics, shell
from e2e.build import binaries, manifests
from e2e.ext_proc import environment
from e2e.images import parties
from e2e.images.build import NAMES, Images, version
from e2e.kind import engine
from e2e.kind.cluster import TOOLS, Cluster, default_workers

REPOSITORY = Path(__file__).parents[1]
CHART = REPOSITORY / "charts" / "ghostfleet"
OUT = REPOSITORY / "e2e" / "out"
RELEASE = "ghostfleet"
NAMESPACE = "ghostfleet-system"
# Where the chart's values name the image of each of NAMES.
IMAGE_VALUES = {"operator": "image", "sim": "simulator.image"}


@dataclass(frozen=True)
class Target:
    """A cluster to test on: what goes before a command so that it reaches the cluster, and the environment it needs."""

    environment: Mapping[str, str]
    prefix: list[str] = field(default_factory=list)

    def run(self, *command: str) -> str:
        """Run a command against the cluster; its standard output."""
        return shell.run([*self.prefix, *command], env=self.environment)

    def has_release(self) -> bool:
        """Whether the chart is installed already."""
        command = [*self.prefix, "helm", "status", RELEASE, "--namespace", NAMESPACE]
        return shell.succeeds(command, env=self.environment)


def main(arguments: list[str]) -> int:
    """Run it all; pytest's exit code."""
    images = Images(os.environ.get("IMAGE_PREFIX", ""))
    keep = os.environ.get("KEEP") == "1"
    cache.remove(OUT)
    environment.python()  # from where the tests run pip may reach nothing
    with _given(keep) if os.environ.get("KUBECONFIG") else _kind(images, keep) as target:
        try:
            _install(target, images)
        except shell.Failure:
            _dump(target)
            raise
        code = _pytest(target, images, arguments)
        if code:
            _dump(target)
        return code


@contextmanager
def _given(keep: bool) -> Iterator[Target]:
    """The cluster of KUBECONFIG. The release is taken off again if it was not there before."""
    path = os.pathsep.join([str(binaries.ensure(TOOLS)), os.environ.get("PATH", os.defpath)])
    picker = {"GHOSTFLEET_EPP_IMAGE": os.environ.get("GHOSTFLEET_EPP_IMAGE", parties.EPP.public)}
    target = Target(os.environ | {"PATH": path} | picker)
    ours = not target.has_release()
    try:
        yield target
    finally:
        if ours and not keep:
            with _silence(), contextlib.suppress(shell.Failure):
                target.run("helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")


@contextmanager
def _kind(images: Images, keep: bool) -> Iterator[Target]:
    """A kind cluster with the images on its nodes; no other run on this machine has it meanwhile."""
    with cache.exclusive("cluster"):
        for which in NAMES:
            images.build(which)
        cluster = Cluster(engine.choose())
        try:
            cluster.up(default_workers())
            loaded = {"GHOSTFLEET_EPP_IMAGE": parties.EPP, "GHOSTFLEET_METRICS_SERVER_IMAGE": parties.METRICS_SERVER}
            archives = [party.ensure() for party in loaded.values()]
            cluster.load([*(images.archive(which) for which in NAMES), *archives])
            names = {variable: party.name for variable, party in loaded.items()}
            yield Target(dict(cluster.environment()) | names, cluster.command())
        finally:
            if keep:
                shell.say("kept the cluster: python3 -m e2e.kind with COMMAND, python3 -m e2e.kind down")
            else:
                with _silence():
                    cluster.down()


def _install(target: Target, images: Images) -> None:
    there = target.has_release()
    # Definitions first: what is there when the operator starts is watched.
    target.run("kubectl", "apply", "--server-side", "-f", str(manifests.inference_extension()))
    command = ["helm", "upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace"]
    command += ["--set", "inferencePools=true"]
    if images.prefix:
        for which, value in IMAGE_VALUES.items():
            repository, _, tag = images.name(which).rpartition(":")
            command += ["--set", f"{value}.repository={repository}", "--set", f"{value}.tag={tag}"]
    with shell.step("installing the chart"):
        target.run(*command, "--wait", "--timeout", "180s")
        if there:  # its tag may stand for another image by now
            kubectl = ["kubectl", "--namespace", NAMESPACE, "rollout"]
            target.run(*kubectl, "restart", "deployment")
            target.run(*kubectl, "status", "deployment", "--timeout=180s")


def _pytest(target: Target, images: Images, arguments: list[str]) -> int:
    told = {
        "GHOSTFLEET_E2E_NAMESPACE": NAMESPACE,
        "GHOSTFLEET_E2E_OUT": str(OUT),
        "GHOSTFLEET_SIM_IMAGE": images.name("sim"),
        "GHOSTFLEET_OPERATOR_IMAGE": images.name("operator"),
        "GHOSTFLEET_VERSION": version(),
    }
    command = [*target.prefix, sys.executable, "-m", "pytest", *(arguments or ["e2e"])]
    return subprocess.run(command, check=False, cwd=REPOSITORY, env=dict(target.environment) | told).returncode


def _dump(target: Target) -> None:
    diagnostics.dump(OUT, prefix=target.prefix, environment=target.environment)
    shell.say(f"what the cluster looked like is in {OUT.relative_to(REPOSITORY)}/")


@contextmanager
def _silence() -> Iterator[None]:
    """Cleaning up says nothing: pytest's summary is to be the last thing a person, or CI, reads."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    shell.exit_with("e2e", lambda: main(sys.argv[1:]))
