"""Waves, the way back, and replacing pods, with real simulators and a real API server; every status is looked at."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.apiserver.cluster import Cluster, Json, document_of, eventually, names_of
from tests.apiserver.fleet import Fleet, address, fleet, set_ttft
from tests.apiserver.sampling import sampled
from tests.apiserver.standin import StandIn, standing_in

from ghostfleet_operator.reconcile.api import CONFIG_MAP, DEPLOYMENT, POD, PROFILE, SERVER

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture(autouse=True)
def _every_status(cluster: Cluster, namespace: str) -> Iterator[None]:
    with sampled(cluster, namespace) as seen:
        yield
    assert len(seen) > 3


def by_hash(running: Fleet, *suffixes: str) -> list[str]:
    """Suffixes in the order in which their pods come into a wave."""
    return sorted(suffixes, key=lambda suffix: hashlib.sha256(running.pods.name_of(suffix).encode()).hexdigest())


def ready(cluster: Cluster, namespace: str, status: str, reason: str) -> Json:
    """The condition `Ready`, once it is so."""

    def look() -> Json:
        found = cluster.condition(namespace, "one", "Ready")
        assert (found["status"], found["reason"]) == (status, reason), cluster.status(namespace, "one")
        return found

    return eventually(look, within=30)


def revisions(running: Fleet, *suffixes: str) -> list[int]:
    return [running.revision(suffix) for suffix in suffixes]


def promote(cluster: Cluster, namespace: str, revision: int) -> None:
    cluster.merge(SERVER, namespace, "one", {"spec": {"rollout": {"promote": {"revision": revision}}}})


def rollout_state(cluster: Cluster, namespace: str) -> Json:
    """What the operator keeps of a wave."""
    config = cluster.must_get(CONFIG_MAP, namespace, names_of(cluster, namespace, "one").config)
    return dict(json.loads(config["data"].get("rollout.json", "{}")))


def test_a_new_profile_goes_to_one_pod_waits_for_a_word_and_then_goes_to_all(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    policy = {"steps": [{"percent": 30, "pause": {}}]}
    with fleet(cluster, namespace, tmp_path, "a", "b", "c", rollout=policy) as running:
        running.synced(1)
        ready(cluster, namespace, "True", "Ready")
        first, *others = by_hash(running, "a", "b", "c")
        set_ttft(cluster, namespace, "80ms")
        assert "waits for spec.rollout.promote" in ready(cluster, namespace, "False", "ProfileCanaryPaused")["message"]
        assert revisions(running, first, *others) == [2, 1, 1]
        wave = cluster.status(namespace, "one")["profile"]["rollout"]
        assert (wave["revision"], wave["step"], wave["waveReplicas"], wave["syncedReplicas"]) == (2, 1, 1, 1)
        assert cluster.condition(namespace, "one", "ProfileSynced")["status"] == "False"
        assert cluster.status(namespace, "one")["profile"]["laggingReplicas"] == 0, "who waits for its turn is not late"
        assert document_of(cluster, namespace, "one")["revision"] == 1, "what a pod that starts reads"

        # The kubelet brings the file of the old document, with the new one beside it, to the pod of the wave.
        running.refresh(first)
        time.sleep(2)
        assert revisions(running, first, *others) == [2, 1, 1]

        promote(cluster, namespace, 2)
        running.synced(2)
        ready(cluster, namespace, "True", "Ready")
        assert revisions(running, first, *others) == [2, 2, 2]
        assert document_of(cluster, namespace, "one")["revision"] == 2
        assert not rollout_state(cluster, namespace)
        told = {"ProfileRolloutStarted", "ProfileSynced"}
        eventually(lambda: told <= cluster.reasons(namespace) or None)


def test_a_pod_that_starts_in_the_middle_gets_what_ran_before_unless_it_belongs_to_the_wave(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    policy = {"steps": [{"percent": 50, "pause": {}}]}
    with fleet(cluster, namespace, tmp_path, "a", "b", rollout=policy) as running:
        running.synced(1)
        first, other = by_hash(running, "a", "b")
        set_ttft(cluster, namespace, "80ms")
        ready(cluster, namespace, "False", "ProfileCanaryPaused")
        running.start("new")
        time.sleep(2)
        third, _ = by_hash(running, other, "new")
        wave = rollout_state(cluster, namespace)["canary"]["members"]
        assert set(wave) == {running.pods.name_of(first), running.pods.name_of(third)}, "two of three; nobody left it"
        eventually(lambda: revisions(running, first, third) == [2, 2] or None)
        rest = ({"a", "b", "new"} - {first, third}).pop()
        assert running.revision(rest) == 1
        promote(cluster, namespace, 2)
        eventually(lambda: revisions(running, "a", "b", "new") == [2, 2, 2] or None)


def test_a_config_map_that_is_lost_in_the_middle_is_rebuilt_from_the_pods_and_the_wave_starts_anew(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    policy = {"steps": [{"percent": 30, "pause": {}}]}
    with fleet(cluster, namespace, tmp_path, "a", "b", "c", rollout=policy) as running:
        before = running.synced(1)["profile"]["desired"]["hash"]
        set_ttft(cluster, namespace, "80ms")
        ready(cluster, namespace, "False", "ProfileCanaryPaused")
        cluster.delete(CONFIG_MAP, namespace, names_of(cluster, namespace, "one").config)

        def rebuilt() -> Json:
            document = document_of(cluster, namespace, "one")
            assert (document["hash"], document["revision"] > 2) == (before, True), document
            return dict(rollout_state(cluster, namespace)["canary"])

        assert len(eventually(rebuilt)["members"]) == 1
        eventually(lambda: min(revisions(running, "a", "b", "c")) > 2 or None)
        revision = max(revisions(running, "a", "b", "c"))
        eventually(lambda: cluster.status(namespace, "one")["profile"]["rollout"]["revision"] == revision or None)
        hashes = [running.admin("GET", "state", suffix).json()["hash"] for suffix in "abc"]
        assert hashes.count(before) == 2
        promote(cluster, namespace, revision)
        running.synced(revision)


@contextlib.contextmanager
def with_stand_in(
    cluster: Cluster, namespace: str, folder: Path, policy: Json, **behaviour: Any
) -> Iterator[tuple[Fleet, StandIn]]:
    """A simulator and, first in every wave, a stand-in for one."""
    with fleet(cluster, namespace, folder, "a", rollout=policy, replicas=2) as running:
        suffix = next(f"x{n}" for n in range(100) if by_hash(running, "a", f"x{n}")[0] != "a")
        where = address()
        with standing_in(where, document_of(cluster, namespace, "one")) as stand_in:
            running.pods.add(suffix, where)
            ready(cluster, namespace, "True", "Ready")
            for name, value in behaviour.items():
                setattr(stand_in, name, value)
            yield running, stand_in


@pytest.mark.parametrize(
    ("behaviour", "reason", "words"),
    [
        ({"refuses": 422}, "Refused", "refused"),
        ({"applies": False}, "NotAcknowledged", "said yes, but runs revision 1"),
        ({"seconds": 30.0}, "NotAcknowledged", "timeout"),
        ({"errors": 50}, "Errors", "50 of 50 requests to the wave failed"),
    ],
    ids=["refuses", "never applies", "hangs", "fails requests"],
)
def test_a_wave_that_fails_goes_back_and_another_profile_starts_anew(
    cluster: Cluster, namespace: str, tmp_path: Path, behaviour: dict[str, Any], reason: str, words: str
) -> None:
    policy = {"steps": [{"percent": 50, "pause": {"duration": "10m"}}], "ackTimeout": "3s", "maxErrorPercent": 5}
    with with_stand_in(cluster, namespace, tmp_path, policy, **behaviour) as (running, stand_in):
        before = running.hashes()
        set_ttft(cluster, namespace, "80ms")
        message = ready(cluster, namespace, "False", "ProfileRolledBack")["message"]
        assert words in message
        assert cluster.condition(namespace, "one", "Stalled")["status"] == "True"
        rejected = cluster.status(namespace, "one")["profile"]["rejected"]
        assert (rejected["revision"], rejected["reason"]) == (2, reason)
        assert running.hashes() == before, "the others never ran it"
        event = eventually(lambda: cluster.events(namespace, "ProfileRolledBack")[0])
        assert event["type"] == "Warning"
        assert document_of(cluster, namespace, "one")["revision"] == 3

        stand_in.behave()
        eventually(lambda: stand_in.revision == 3 or None, within=30)
        eventually(lambda: running.revision("a") == 3 or None)
        cluster.merge(SERVER, namespace, "one", {"spec": {"networking": {"serviceType": "NodePort"}}})
        time.sleep(2)
        assert cluster.condition(namespace, "one", "Ready")["reason"] == "ProfileRolledBack", "nothing about it changed"

        set_ttft(cluster, namespace, "81ms")
        eventually(lambda: rollout_state(cluster, namespace)["canary"]["held"], within=30)
        assert (stand_in.revision, running.revision("a")) == (4, 3)
        promote(cluster, namespace, 4)
        ready(cluster, namespace, "True", "Ready")
        assert (stand_in.revision, running.revision("a")) == (4, 4)


INVALID = {"pod": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}}
"""Nothing that a CRD can tell."""
VALID = {"pod": None}


def test_a_wave_stands_still_while_the_spec_is_invalid_and_goes_on_when_it_is_mended(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    policy = {"steps": [{"percent": 30, "pause": {}}]}
    with fleet(cluster, namespace, tmp_path, "a", "b", rollout=policy) as running:
        running.synced(1)
        first, other = by_hash(running, "a", "b")
        set_ttft(cluster, namespace, "80ms")
        ready(cluster, namespace, "False", "ProfileCanaryPaused")
        wave = rollout_state(cluster, namespace)
        cluster.merge(SERVER, namespace, "one", {"spec": INVALID})
        ready(cluster, namespace, "False", "Invalid")
        promote(cluster, namespace, 2)
        set_ttft(cluster, namespace, "90ms")
        ready(cluster, namespace, "False", "Invalid")
        time.sleep(3)
        assert rollout_state(cluster, namespace) == wave
        assert revisions(running, first, other) == [2, 1]
        synced = cluster.condition(namespace, "one", "ProfileSynced")
        assert "stands still" in synced["message"], synced
        set_ttft(cluster, namespace, "80ms")
        cluster.merge(SERVER, namespace, "one", {"spec": VALID})
        running.synced(2)
        ready(cluster, namespace, "True", "Ready")
        assert revisions(running, first, other) == [2, 2]


def test_a_wave_that_fails_while_the_spec_is_invalid_goes_back(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    policy = {"steps": [{"percent": 50, "pause": {"duration": "10m"}}], "maxErrorPercent": 5}
    with with_stand_in(cluster, namespace, tmp_path, policy) as (running, stand_in):
        set_ttft(cluster, namespace, "80ms")
        eventually(lambda: rollout_state(cluster, namespace)["canary"]["held"], within=30)
        cluster.merge(SERVER, namespace, "one", {"spec": INVALID})
        ready(cluster, namespace, "False", "Invalid")
        stand_in.errors = 50
        eventually(lambda: stand_in.revision == 3 or None, within=30)
        eventually(lambda: running.revision("a") == 3 or None, within=30)
        event = eventually(lambda: cluster.events(namespace, "ProfileRolledBack")[0])
        assert "50 of 50 requests to the wave failed" in event["message"]
        rejected = cluster.status(namespace, "one")["profile"]["rejected"]
        assert (rejected["revision"], rejected["reason"]) == (2, "Errors")
        assert cluster.condition(namespace, "one", "Ready")["reason"] == "Invalid"

        cluster.merge(SERVER, namespace, "one", {"spec": VALID})
        ready(cluster, namespace, "False", "ProfileRolledBack")
        assert (stand_in.revision, running.revision("a")) == (3, 3)


def test_a_server_that_goes_back_by_hand_brings_its_wave_back(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with fleet(cluster, namespace, tmp_path, "a", "b", rollout={"steps": [{"percent": 50, "pause": {}}]}) as running:
        running.synced(1)
        set_ttft(cluster, namespace, "80ms")
        ready(cluster, namespace, "False", "ProfileCanaryPaused")
        set_ttft(cluster, namespace, "20ms")
        running.synced(3)
        ready(cluster, namespace, "True", "Ready")
        assert revisions(running, "a", "b") == [3, 3]


def test_with_restart_pods_keep_what_they_started_with_and_the_deployment_replaces_them(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with fleet(cluster, namespace, tmp_path, rollout={"strategy": "Restart"}, replicas=1) as running:
        old = document_file(cluster, namespace)
        running.start("a", file=old)
        ready(cluster, namespace, "True", "Ready")
        set_ttft(cluster, namespace, "80ms")
        eventually(lambda: document_file(cluster, namespace) != old or None)
        ready(cluster, namespace, "False", "RollingOut")
        running.refresh("a")  # the kubelet's next round
        time.sleep(3)
        assert running.revision("a") == 1, "it is neither pushed to nor changed by the file"
        assert cluster.condition(namespace, "one", "ProfileSynced")["reason"] == "Restarting"

        patch = {"profile": {"simple": {"timeToFirstToken": "9ms"}}}
        before = running.admin("GET", "state", "a").json()["hash"]
        assert running.admin("PATCH", "config", "a", patch).status_code == 200
        eventually(lambda: running.admin("GET", "state", "a").json()["hash"] == before or None)

        leaving = running.pods.name_of("a")
        running.pods.take_template()
        running.start("b", file=document_file(cluster, namespace))
        assert running.revision("b") == 2
        cluster.delete(POD, namespace, leaving)
        running.addresses.pop("a")
        running.pods.report()
        ready(cluster, namespace, "True", "Ready")
        config = names_of(cluster, namespace, "one").config
        files = lambda: set(cluster.must_get(CONFIG_MAP, namespace, config)["data"])  # noqa: E731 - looked at again
        eventually(lambda: files() == {document_file(cluster, namespace)} or None)


def document_file(cluster: Cluster, namespace: str) -> str:
    """The file that the Deployment's pods read."""
    template = cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["template"]
    arguments = template["spec"]["containers"][0]["args"]
    return Path(arguments[arguments.index("--config") + 1]).name


def test_replicas_and_suspend_are_clear_whatever_else_is_wrong(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    invalid = {"pod": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}}
    with fleet(cluster, namespace, tmp_path, "a") as running:
        running.synced(1)

        def wanted(number: int) -> None:
            eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["replicas"] == number or None)

        template = cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["template"]
        cluster.merge(SERVER, namespace, "one", {"spec": {**invalid, "replicas": 3}})
        ready(cluster, namespace, "False", "Invalid")
        wanted(3)
        cluster.merge(SERVER, namespace, "one", {"spec": {"suspend": True}})
        wanted(0)
        cluster.merge(SERVER, namespace, "one", {"spec": {"suspend": False, "pod": None}})
        wanted(3)
        cluster.delete(PROFILE, namespace, "shared")
        ready(cluster, namespace, "False", "ProfileNotFound")
        cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 1}}, "/scale")
        wanted(1)
        assert cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["template"] == template
        assert not cluster.events(namespace, "DriftCorrected")


def test_pods_that_do_not_come_up_say_why(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with fleet(cluster, namespace, tmp_path, replicas=3) as running:
        waiting = {
            "p": ("ImagePullBackOff", 'Back-off pulling image "sim:1"'),
            "q": ("ImagePullBackOff", "the same"),
            "r": ("CrashLoopBackOff", "back-off 10s restarting failed container"),
        }
        for suffix, (reason, text) in waiting.items():
            running.pods.add(suffix, address(), ready=False)
            state = {"waiting": {"reason": reason, "message": text}}
            found = {"name": "server", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
            status = {"containerStatuses": [found]}
            cluster.merge(POD, namespace, running.pods.name_of(suffix), {"status": status}, "/status")
        first = running.pods.name_of("p")

        def look() -> Json:
            found = cluster.condition(namespace, "one", "Ready")
            pods = f'2 ImagePullBackOff ({first}: Back-off pulling image "sim:1"), 1 CrashLoopBackOff'
            assert pods in found["message"], found
            return found

        assert eventually(look)["reason"] == "PodsNotReady"
