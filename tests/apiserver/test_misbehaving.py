"""Pods that accept and never apply, answer slowly, refuse or hang: they are named, and the others go on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from tests.apiserver.cluster import Cluster, Json, document_of, eventually
from tests.apiserver.conftest import Operator, StartOperator
from tests.apiserver.fleet import Fleet, address, fleet, set_ttft
from tests.apiserver.sampling import sampled
from tests.apiserver.standin import StandIn, standing_in

from ghostfleet_operator.reconcile.api import POD

BEHAVIOURS: dict[str, dict[str, object]] = {
    "mute": {"applies": False, "says_so": False},
    "liar": {"applies": False},
    "slow": {"seconds": 1.5},
    "stubborn": {"refuses": 422},
    "hung": {"seconds": 60.0},
}
WORDS = {
    "mute": "said yes, but runs revision 1",
    "liar": "said yes, but runs revision 1",
    "stubborn": "refused: not me (422)",
    "hung": "timeout: ",
}


@contextlib.contextmanager
def misbehaving(cluster: Cluster, namespace: str, folder: Path) -> Iterator[tuple[Fleet, dict[str, StandIn]]]:
    """Two simulators and a stand-in for each behaviour, all of them good until they are told."""
    with fleet(cluster, namespace, folder, "a", "b", replicas=2 + len(BEHAVIOURS)) as running:
        document = document_of(cluster, namespace, "one")
        found = {}
        for suffix in BEHAVIOURS:
            where = address()
            found[suffix] = running.stack.enter_context(standing_in(where, document))
            running.pods.add(suffix, where)
        eventually(lambda: cluster.condition(namespace, "one", "Ready")["status"] == "True" or None, within=30)
        for suffix, behaviour in BEHAVIOURS.items():
            for name, value in behaviour.items():
                setattr(found[suffix], name, value)
        yield running, found


@pytest.fixture
def _every_status(cluster: Cluster, namespace: str) -> Iterator[None]:
    with sampled(cluster, namespace) as seen:
        yield
    assert len(seen) > 3


@pytest.mark.usefixtures("_every_status")
def test_who_misbehaves_is_named_with_the_reason_and_the_others_run_the_new_profile(
    cluster: Cluster, operator: Operator, namespace: str, tmp_path: Path
) -> None:
    with misbehaving(cluster, namespace, tmp_path) as (running, stand_ins):
        began = time.monotonic()
        set_ttft(cluster, namespace, "80ms")
        eventually(lambda: (running.revision("a"), running.revision("b")) == (2, 2) or None)
        took = time.monotonic() - began
        print(f"the others ran it after {took:.2f} s")  # noqa: T201
        assert took < 5, "shorter than a single call to the pod that hangs may take"

        def named() -> dict[str, str]:
            status = cluster.status(namespace, "one")
            found = {entry["pod"].rpartition("-")[2]: entry["reason"] for entry in status["profile"]["lagging"]}
            assert found.keys() == WORDS.keys(), status["profile"]
            assert all(words in found[suffix] for suffix, words in WORDS.items()), found
            return found

        eventually(named, within=30)
        assert stand_ins["slow"].revision == 2
        for _ in range(30):
            synced = cluster.condition(namespace, "one", "ProfileSynced")
            assert (synced["status"], synced["reason"]) == ("False", "Lagging")
            time.sleep(0.1)
        assert operator.metric("ghostfleet_operator_profile_push_total") > 0

        # A pass over the server is not held up by them: one edit after the other reaches the good ones.
        for number in range(3, 6):
            began = time.monotonic()
            set_ttft(cluster, namespace, f"{number * 30}ms")
            eventually(lambda number=number: running.revision("a") == number or None)
            assert time.monotonic() - began < 4

        for stand_in in stand_ins.values():
            stand_in.behave()
        eventually(lambda: cluster.condition(namespace, "one", "ProfileSynced")["status"] == "True" or None, within=90)
        assert {stand_in.revision for stand_in in stand_ins.values()} == {5}


@pytest.mark.usefixtures("operator")
def test_a_pod_that_leaves_is_named_no_more(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with misbehaving(cluster, namespace, tmp_path) as (running, stand_ins):
        set_ttft(cluster, namespace, "80ms")

        def lagging(number: int) -> Json:
            found = dict(cluster.status(namespace, "one")["profile"])
            assert found["laggingReplicas"] == number, found
            return found

        eventually(lambda: lagging(len(WORDS)), within=30)
        for suffix in WORDS:
            cluster.delete(POD, namespace, running.pods.name_of(suffix))
        eventually(lambda: lagging(0))
        assert stand_ins["slow"].revision == 2
        assert cluster.condition(namespace, "one", "ProfileSynced")["status"] == "True"


def test_a_pod_that_hangs_keeps_no_operator_from_its_end(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    """The next one waits for it. A call to a pod has five seconds, and kopf waits as long for calls under way."""
    timing = ("--observe-seconds", "1", "--log-level", "debug")
    with start_operator("--namespace", namespace, *timing) as operator, fleet(cluster, namespace, tmp_path) as running:
        where = address()
        with standing_in(where, document_of(cluster, namespace, "one")) as stand_in:
            stand_in.seconds = 60.0
            running.pods.add("a", where)
            eventually(lambda: stand_in.asked > 0 or None)
            operator.process.terminate()
            assert operator.process.wait(30) == 0
        lines = operator.log.read_text().splitlines()
        stopped = next(line for line in lines if line.endswith("ghostfleet.operator: stopped"))
        took = _time_of(lines[-1]) - _time_of(stopped)
        assert took.total_seconds() < 3, lines[-5:]


def _time_of(line: str) -> datetime:
    """When a line was logged."""
    return datetime.fromisoformat(line[:23].replace(",", "."))
