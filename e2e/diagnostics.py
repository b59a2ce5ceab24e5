"""python3 -m e2e.diagnostics FOLDER: write down what a cluster looks like, for whoever reads about a failure later."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e import shell

OURS = "simulatedmodelservers,latencyprofiles"
QUERIES = {
    "nodes.txt": ["describe", "nodes"],
    "overview.txt": ["get", "all,configmaps,endpointslices,leases,poddisruptionbudgets", "-A", "-o", "wide"],
    "objects.yaml": ["get", OURS, "-A", "-o", "yaml"],
    "objects.txt": ["describe", OURS, "-A"],
    "workloads.txt": ["describe", "deployments,replicasets,pods", "-A"],
    "events.txt": ["get", "events", "-A", "--sort-by=.lastTimestamp", "-o", "wide"],
}


def dump(folder: Path, *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
    """Write descriptions, events and the logs of every container, before and after a restart, to `folder`.

    `prefix` goes before each `kubectl`. What cannot be had is written down as such: this runs when things are broken.
    """
    kubectl = [*prefix, "kubectl", "--request-timeout=20s"]

    def ask(*arguments: str) -> str:
        try:
            asked = subprocess.run(
                [*kubectl, *arguments],
                check=False,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=60,
            )
            return asked.stdout + asked.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{error}\n"

    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for name, query in QUERIES.items():
        (folder / name).write_text(ask(*query))
    try:
        pods = json.loads(ask("get", "pods", "-A", "-o", "json"))["items"]
    except json.JSONDecodeError:
        return
    for pod in pods:
        where, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        logs = ["logs", "-n", where, name, "--all-containers", "--prefix", "--timestamps", "--tail=5000"]
        text = ask(*logs)
        if any(status.get("restartCount") for status in pod.get("status", {}).get("containerStatuses", [])):
            text = f"{ask(*logs, '--previous')}--- restarted ---\n{text}"
        (folder / "logs" / f"{where}_{name}.log").write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        shell.say(__doc__ or "")
        sys.exit(2)
    dump(Path(sys.argv[1]))
