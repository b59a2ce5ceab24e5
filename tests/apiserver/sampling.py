"""Every version of the servers of a namespace, as a watch tells them, and what must hold for each."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator

import httpx
from tests.apiserver.cluster import Cluster, Json, path

from ghostfleet_operator.reconcile.api import SERVER


@contextlib.contextmanager
def sampled(cluster: Cluster, namespace: str) -> Iterator[list[Json]]:
    """Every version of every server while the block runs; fails after it where one of them told something false."""
    seen: list[Json] = []
    began, ending = threading.Event(), threading.Event()

    def watch() -> None:
        query = {"watch": "true", "timeoutSeconds": "300"}
        with cluster.client.stream("GET", path(SERVER, namespace), params=query, timeout=None) as stream:
            if stream.status_code != httpx.codes.OK:
                return  # the API server asks for patience while it sets up the storage of a new kind
            began.set()
            for line in stream.iter_lines():
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    seen.append(event["object"])
                if ending.is_set():
                    return

    def quietly() -> None:
        while not began.is_set():
            with contextlib.suppress(httpx.HTTPError):
                watch()
            time.sleep(0.2)

    note = {"metadata": {"annotations": {"test/end": "yes"}}}
    watcher = threading.Thread(target=quietly, daemon=True)
    watcher.start()
    assert began.wait(20)
    yield seen
    ending.set()
    for server in cluster.list(SERVER, namespace):
        cluster.merge(SERVER, namespace, server["metadata"]["name"], note)  # one more event, to end by
    watcher.join(20)
    before: dict[str, Json] = {}
    for version in seen:
        name = version["metadata"]["name"]
        holds_together(version, before.get(name))
        before[name] = version


def kstatus(obj: Json) -> str:
    """What kstatus makes of an object: `InProgress`, `Failed` or `Current`."""
    status = obj.get("status") or {}
    aspects = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    if "observedGeneration" in status and status["observedGeneration"] != obj["metadata"]["generation"]:
        return "InProgress"
    if aspects.get("Reconciling") == "True":
        return "InProgress"
    if aspects.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if aspects.get("Ready", "True") != "True" else "Current"


def holds_together(now: Json, before: Json | None) -> None:
    """What must be true of one version of a server, and of the step to it."""
    status = now.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    aspects = {aspect: c["status"] for aspect, c in conditions.items()}
    text = json.dumps(status, indent=1)
    assert kstatus(now) != "Current" or aspects.get("Ready") == "True", f"looks done before it was looked at: {text}"
    if "observedGeneration" not in status:
        return
    assert status["observedGeneration"] <= now["metadata"]["generation"], text
    assert all(c["observedGeneration"] == status["observedGeneration"] for c in conditions.values()), text
    flags = [aspects["Ready"] == "True", aspects.get("Reconciling") == "True", aspects.get("Stalled") == "True"]
    assert flags.count(True) == 1, text
    profile = status["profile"]
    if aspects["ProfileSynced"] == "True":
        assert not profile.get("laggingReplicas"), text
        assert not {"rollout", "rejected"} & profile.keys() or not status["replicas"], text
    if aspects["Ready"] == "True":
        assert aspects["ProfileSynced"] == aspects["ProfileResolved"] == aspects["WorkloadAvailable"] == "True", text
        assert kstatus(now) == "Current" or status["observedGeneration"] < now["metadata"]["generation"], text
    if before is None or "observedGeneration" not in (before.get("status") or {}):
        return
    assert status["observedGeneration"] >= before["status"]["observedGeneration"], text
    old = before["status"]["profile"].get("desired") or {"revision": 0}
    assert (profile.get("desired") or old)["revision"] >= old["revision"], text
    for earlier in before["status"]["conditions"]:
        later = conditions.get(earlier["type"])
        if later and later["status"] == earlier["status"]:
            assert later["lastTransitionTime"] == earlier["lastTransitionTime"], text
