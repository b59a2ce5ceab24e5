"""Operators that end in the middle of a wave: the next one goes on, for all there is to know is in the ConfigMap."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest
from tests.apiserver.cluster import Cluster, Json, document_of, eventually, names_of, profile, server
from tests.apiserver.conftest import StartOperator
from tests.apiserver.control_plane import ControlPlane
from tests.apiserver.fleet import Fleet, fleet, set_ttft
from tests.apiserver.passes import Broken, Process, processes
from tests.apiserver.sampling import sampled

from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.reconcile.api import CONFIG_MAP, SERVER

SOAK = os.environ.get("GHOSTFLEET_SOAK") == "1"
WAIT = {"steps": [{"percent": 30, "pause": {}}]}
WAVES = {"steps": [{"percent": 30}, {"percent": 60}]}


def rollout_state(cluster: Cluster, namespace: str) -> Json:
    config = cluster.must_get(CONFIG_MAP, namespace, names_of(cluster, namespace, "one").config)
    return dict(json.loads(config["data"].get("rollout.json", "{}")))


def revisions(running: Fleet) -> list[int]:
    return sorted(running.revision(suffix) for suffix in running.addresses)


def test_the_next_operator_goes_on_with_the_same_wave(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    quick = ("--namespace", namespace, "--observe-seconds", "1", "--resync-seconds", "3")
    with sampled(cluster, namespace), contextlib.ExitStack() as stack:
        first = stack.enter_context(start_operator(*quick))
        running = stack.enter_context(fleet(cluster, namespace, tmp_path, "a", "b", "c", rollout=WAIT))
        running.synced(1)
        set_ttft(cluster, namespace, "80ms")
        before = eventually(lambda: held(cluster, namespace))
        first.process.kill()
        first.process.wait()
        assert revisions(running) == [1, 1, 2]
        second = stack.enter_context(start_operator(*quick))
        done = 'ghostfleet_operator_reconcile_total{kind="SimulatedModelServer",result="done"}'
        eventually(lambda: second.metric(done) > 3 or None, within=30)
        assert rollout_state(cluster, namespace)["canary"] == before
        assert revisions(running) == [1, 1, 2]
        cluster.merge(SERVER, namespace, "one", {"spec": {"rollout": {"promote": {"revision": 2}}}})
        running.synced(2)
        assert revisions(running) == [2, 2, 2]


def held(cluster: Cluster, namespace: str) -> Json:
    canary = rollout_state(cluster, namespace)["canary"]
    assert canary["held"]
    return dict(canary)


@pytest.mark.soak
def test_an_operator_that_ends_at_any_call_of_a_wave_loses_and_repeats_nothing(
    plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """Every pass is by a process of its own, and is cut off at call k; the one after it is not."""
    cases = 0
    with processes(plane) as (runner, process):
        cluster.create(profile(namespace, "shared", "20ms"))
        spec = {"replicas": 3, "profile": None, "profileRef": {"name": "shared"}, "rollout": WAVES}
        created = cluster.create(server(namespace, "one", **spec))
        runner.run(process.one_pass(namespace, "one"))
        assert cluster.get(CONFIG_MAP, namespace, ChildNames.of("one", created["metadata"]["uid"]).config)
        running = Fleet(cluster, namespace, "one", tmp_path)
        with running.stack:
            running.start("a", "b", "c")
            runner.run(process.one_pass(namespace, "one"))
            set_ttft(cluster, namespace, "90ms")
            calls = finished(runner, process, cluster, running, 2)
            for revision, at in enumerate(range(1, calls + 1, 1 if SOAK else 3), start=3):
                set_ttft(cluster, namespace, f"{at + 100}ms")
                while not done(cluster, running, revision):
                    for sent in (False, True):
                        cases += step(runner, process, namespace, at, sent=sent)
                        assert revisions(running).count(revision) <= largest_wave(cluster, namespace), (
                            "none before its turn"
                        )
                    runner.run(process.one_pass(namespace, "one"))
                assert document_of(cluster, namespace, "one")["revision"] == revision, f"cut at call {at}"
    assert cases >= calls // 2
    print(f"{cases} passes of a wave cut off")  # noqa: T201


def finished(runner: asyncio.Runner, process: Process, cluster: Cluster, running: Fleet, revision: int) -> int:
    """Pass after pass until all pods run a revision; the most calls of a pass."""
    most = 0
    while not done(cluster, running, revision):
        most = max(most, runner.run(process.one_pass(running.namespace, "one")))
    return most


def done(cluster: Cluster, running: Fleet, revision: int) -> bool:
    """Whether all pods run a revision and no wave is left."""
    return not rollout_state(cluster, running.namespace) and revisions(running) == [revision] * 3


def step(runner: asyncio.Runner, process: Process, namespace: str, at: int, *, sent: bool) -> bool:
    """One pass that is cut off at a call; whether it came that far."""
    try:
        runner.run(process.one_pass(namespace, "one", at, sent=sent))
    except Broken:
        return True
    return False


def largest_wave(cluster: Cluster, namespace: str) -> int:
    """How many pods may run what is on its way."""
    state = rollout_state(cluster, namespace)
    return len(state["canary"]["members"]) if state else 3
