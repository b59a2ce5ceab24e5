"""The life of the test cluster: created on an engine, given images, used, deleted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e import cache, shell
from e2e.build import binaries
from e2e.kind.engine import Engine

NAME = "ghostfleet-e2e"
TOOLS = ("kind", "kubectl", "helm")


def default_workers() -> int:
    """How many nodes a cluster has beside its control plane: E2E_WORKERS, or 2: one can be drained."""
    given = os.environ.get("E2E_WORKERS") or "2"
    if not given.isdecimal():
        raise shell.Failure(f"E2E_WORKERS={given}: must be a whole number, 0 or more")
    return int(given)


class Cluster:
    """The one kind cluster of this machine's end-to-end tests."""

    def __init__(self, engine: Engine) -> None:
        """A cluster on `engine`, which need not run yet."""
        self._engine = engine
        self.kubeconfig = cache.root() / "kind" / "kubeconfig"

    def environment(self) -> Mapping[str, str]:
        """For programs that use the cluster: KUBECONFIG, and kubectl, helm and kind on PATH."""
        engine = self._engine.environment()
        path = os.pathsep.join([str(binaries.ensure(TOOLS)), engine.get("PATH", os.defpath)])
        return dict(engine) | {"KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def command(self, *command: str) -> list[str]:
        """`command` as it must be run for the cluster to be reachable."""
        return [*self._engine.inside(), *command]

    def up(self, workers: int) -> None:
        """Have one control plane and `workers` more nodes, all Ready; a running one of that size is kept."""
        node = self._engine.start()
        if self._nodes() == 1 + workers:
            shell.say(f"cluster {NAME} is up already")
            return
        self.delete()
        config = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": "control-plane"}, *({"role": "worker"} for _ in range(workers))],
        }
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        with shell.step(f"creating cluster {NAME} (1 control plane, {workers} workers)"):
            create = ["kind", "create", "cluster", "--name", NAME, "--image", node, "--config", "-", "--wait", "180s"]
            self._run(*create, text=json.dumps(config))
        with shell.step("waiting for nodes and system pods"):
            wait = ["kubectl", "wait", "--for=condition=Ready", "--timeout=180s"]
            self._run(*wait, "node", "--all")
            for namespace in ("kube-system", "local-path-storage"):
                self._run(*wait, "pod", "--all", "--namespace", namespace)

    def load(self, archives: Sequence[Path]) -> None:
        """Put the images of these archives on every node."""
        for archive in archives:
            with shell.step(f"loading {archive.name}"):
                self._run("kind", "load", "image-archive", str(archive), "--name", NAME)

    def delete(self) -> None:
        """Delete the cluster, or whatever is left of one."""
        self._run("kind", "delete", "cluster", "--name", NAME)

    def down(self) -> None:
        """Delete the cluster and end the engine."""
        with shell.step(f"deleting cluster {NAME}"):
            if self._engine.recover():
                self.delete()
            self._engine.stop()

    def _nodes(self) -> int:
        """How many nodes answer as Ready; 0 where there is no cluster."""
        query = ["kubectl", "get", "nodes", "--request-timeout=5s", "--no-headers"]
        if not self.kubeconfig.exists() or not shell.succeeds(self.command(*query), env=self.environment()):
            return 0
        return sum(" Ready " in line for line in self._run(*query).splitlines())

    def _run(self, *command: str, text: str = "") -> str:
        return shell.run(self.command(*command), env=self.environment(), text=text)
