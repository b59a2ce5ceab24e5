"""Several operators, of which one works: how the next one takes over, and that the last one is silent then."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from tests.apiserver import audit
from tests.apiserver.cluster import Cluster, Json, document_of, eventually, server
from tests.apiserver.conftest import Operator, StartOperator
from tests.apiserver.control_plane import ControlPlane

from ghostfleet_operator.reconcile.api import LEASE, SERVER

NAME, SYSTEM, WORK = "ghostfleet-operator", "election", "elected"
DURATION, DEADLINE, RETRY = 6, 4, 1
STALLS = 10 if os.environ.get("GHOSTFLEET_SOAK") == "1" else 2
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"


@pytest.fixture(scope="module")
def audited(cluster: Cluster, plane: ControlPlane) -> tuple[Cluster, ControlPlane]:
    """An API server that writes down who asked for what."""
    for name in (SYSTEM, WORK):
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return cluster, plane


Start = Callable[[str], "contextlib.AbstractContextManager[Operator]"]


@pytest.fixture
def start(audited: tuple[Cluster, ControlPlane], start_operator: StartOperator, tmp_path: Path) -> Start:
    """Starts an operator that takes part in the election as a user of its own, with every right."""
    cluster, plane = audited

    @contextlib.contextmanager
    def begin(user: str) -> Iterator[Operator]:
        account = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts"
        cluster.call("POST", account, {"metadata": {"name": user}})
        subject = {"kind": "ServiceAccount", "name": user, "namespace": SYSTEM}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        cluster.call("POST", ROLE, {"metadata": {"name": user}, "subjects": [subject], "roleRef": role})
        token = cluster.call("POST", f"{account}/{user}/token", {"spec": {}})["status"]["token"]
        config = yaml.safe_load(plane.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        kubeconfig = tmp_path / user
        kubeconfig.write_text(yaml.safe_dump(config))
        arguments = ["--kubeconfig", str(kubeconfig), "--namespace", WORK, "--leader-elect"]
        arguments += ["--leader-elect-resource-namespace", SYSTEM, "--leader-elect-lease-duration", str(DURATION)]
        arguments += ["--leader-elect-renew-deadline", str(DEADLINE), "--leader-elect-retry-period", str(RETRY)]
        with start_operator(*arguments, "--observe-seconds", "1", "--resync-seconds", "2") as operator:
            yield operator

    return begin


def user_of(name: str) -> str:
    return f"system:serviceaccount:{SYSTEM}:{name}"


def lease(cluster: Cluster) -> Json:
    return dict(cluster.must_get(LEASE, SYSTEM, NAME)["spec"])


def until(holds: Callable[[], bool], within: float = 40) -> None:
    eventually(lambda: holds() or None, within)


def ended(operator: Operator, within: float = 30) -> int:
    return operator.process.wait(within)


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)


@contextlib.contextmanager
def edits(cluster: Cluster, name: str) -> Iterator[None]:
    """Somebody who changes the profile of a server ten times a second, so that there is always something to write."""
    cluster.create(server(WORK, name))
    done = threading.Event()

    def edit() -> None:
        for number in range(10_000):
            if done.wait(0.1):
                return
            ttft = f"{number % 900 + 10}ms"
            cluster.merge(SERVER, WORK, name, {"spec": {"profile": {"simple": {"timeToFirstToken": ttft}}}})

    person = threading.Thread(target=edit)
    person.start()
    try:
        yield
    finally:
        done.set()
        person.join()


def revision(cluster: Cluster, name: str) -> int:
    return int(document_of(cluster, WORK, name)["revision"])


def test_one_works_the_others_stand_by_and_a_clean_end_hands_over_at_once(
    audited: tuple[Cluster, ControlPlane], start: Start
) -> None:
    cluster, plane = audited
    with start("hand1") as first:
        until(first.leads)
        with start("hand2") as second, edits(cluster, "handed"):
            until(lambda: revision(cluster, "handed") >= 3)
            assert (second.readiness(), second.leads()) == ("ok", False), "a standby is ready, or updates would hang"
            assert not audit.writes(plane, user_of("hand2")), "and writes nothing"
            before = lease(cluster)
            assert before["holderIdentity"]
            assert before["leaseDurationSeconds"] == DURATION

            first.process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            assert ended(first) == 0
            gone = time.monotonic()
            until(second.leads)
            took = time.monotonic() - gone
            # Polled by the standby every 1 to 1.2 s here; without the release it would wait for six.
            print(f"ended {gone - told:.1f} s after SIGTERM, the next one leads {took:.1f} s later")  # noqa: T201
            assert took < DURATION - RETRY
            after = lease(cluster)
            assert after["holderIdentity"] not in ("", before["holderIdentity"])
            assert after["leaseTransitions"] == before["leaseTransitions"] + 1
            reached = revision(cluster, "handed")
            until(lambda: revision(cluster, "handed") > reached)
        assert ended(second) == 0
    assert lease(cluster)["holderIdentity"] == "", "the last one gave it back, too"


def test_after_a_crash_the_next_one_waits_for_the_lease_to_run_out(
    audited: tuple[Cluster, ControlPlane], start: Start
) -> None:
    cluster, _ = audited
    with start("crash1") as first:
        until(first.leads)
        with start("crash2") as second:
            until(lambda: "standing by" in second.log.read_text())
            first.process.kill()
            ended(first)
            left = lease(cluster)
            until(second.leads)
            taken = lease(cluster)
            assert taken["holderIdentity"] != left["holderIdentity"]
            waited = (when(taken["acquireTime"]) - when(left["renewTime"])).total_seconds()
            print(f"taken {waited:.1f} s after it was last renewed")  # noqa: T201
            assert waited >= DURATION


@pytest.mark.soak
@pytest.mark.parametrize("turn", range(1, STALLS + 1))
def test_a_leader_that_stalls_past_its_lease_writes_nothing_when_it_wakes_up(
    audited: tuple[Cluster, ControlPlane], start: Start, turn: int
) -> None:
    """Stopped in the middle of writing, and let go when another one works: the API server hears nothing more of it."""
    cluster, plane = audited
    old, new = f"stalled{turn}", f"relief{turn}"
    with start(old) as first:
        until(first.leads)
        with start(new) as second, edits(cluster, f"busy{turn}"):
            until(lambda: revision(cluster, f"busy{turn}") >= 3)
            time.sleep(0.17 * turn)  # anywhere between two edits
            first.process.send_signal(signal.SIGSTOP)
            until(second.leads)
            reached = revision(cluster, f"busy{turn}")
            until(lambda: revision(cluster, f"busy{turn}") > reached)
            first.process.send_signal(signal.SIGCONT)
            assert ended(first) == 1
            assert "was not renewed within" in first.log.read_text()
            time.sleep(1)
            assert second.leads()
    taken = audit.writes(plane, user_of(new))[0]
    assert taken["objectRef"]["resource"] == "leases"
    last = max(audit.writes(plane, user_of(old)), key=lambda event: str(event["stageTimestamp"]))
    assert when(last["stageTimestamp"]) < when(taken["requestReceivedTimestamp"]), last
    assert len(audit.writes(plane, user_of(old))) > 10, "it did write before"


def test_a_leader_that_may_not_renew_its_lease_stops_before_it_runs_out(
    audited: tuple[Cluster, ControlPlane], start: Start
) -> None:
    cluster, plane = audited
    with start("refused") as operator, edits(cluster, "written"):
        until(operator.leads)
        until(lambda: revision(cluster, "written") >= 3)
        # Everything but leases stays allowed, so only the lease can be what ends it.
        rule = {"apiGroups": ["", "apps", "ghostfleet.dev"], "resources": ["*"], "verbs": ["*"]}
        cluster.call(
            "POST",
            ROLE.replace("bindings", "s"),
            {"metadata": {"name": "all-but-leases"}, "rules": [rule]},
        )
        subject = {"kind": "ServiceAccount", "name": "refused", "namespace": SYSTEM}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "all-but-leases"}
        cluster.call("POST", ROLE, {"metadata": {"name": "rest"}, "subjects": [subject], "roleRef": role})
        time.sleep(1)
        cluster.call("DELETE", f"{ROLE}/refused")
        assert ended(operator) == 1
        text = operator.log.read_text()
        assert "was not renewed within 4 s" in text
        assert "forbidden" in text
    done = [e for e in audit.writes(plane, user_of("refused")) if e["responseStatus"]["code"] < 300]
    renewed = [e for e in done if e["objectRef"]["resource"] == "leases"][-1]
    last = max(when(e["requestReceivedTimestamp"]) for e in done)
    assert (last - when(renewed["requestReceivedTimestamp"])).total_seconds() <= DEADLINE + 0.5
