"""The hollow cluster itself: what the other tests of this folder stand on."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.apiserver.cluster import eventually, server
from tests.apiserver.control_plane import process
from tests.apiserver.hollow import Hollow

from ghostfleet_operator.reconcile.api import CHILDREN, POD, SECRET, SERVER


def test_pods_come_run_what_they_are_given_and_go_with_their_server(hollow: Hollow, tmp_path: Path) -> None:
    """Made by the real controllers, Ready by kwok, and collected by the real garbage collector."""
    cluster, key = hollow.cluster, tmp_path / "key"
    key.write_text("0123456789abcdef")
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "whole"}})
    command = [sys.executable, "-m", "ghostfleet_operator.cli.main", "operator", "--key-file", str(key)]
    command += ["--kubeconfig", str(hollow.plane.kubeconfig), "--namespace", "whole", "--health-port", "8081"]
    with process(command, tmp_path / "operator.log"):
        cluster.create(server("whole", "one", replicas=3))
        eventually(lambda: cluster.condition("whole", "one", "Ready")["status"] == "True" or None, within=30)
        status = cluster.status("whole", "one")
        assert (status["readyReplicas"], status["endpointCount"], status["profile"]["syncedReplicas"]) == (3, 3, 3)
        cluster.delete(SERVER, "whole", "one")
        eventually(lambda: not any(cluster.list(kind, "whole") for kind in (POD, SECRET, *CHILDREN)) or None)
