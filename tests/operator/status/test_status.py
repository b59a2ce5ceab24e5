"""Conditions and status follow from what was observed, and are right for kstatus at every moment."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.objects import planned, raw_profile, resolved

from ghostfleet_operator.kinds import parse_profile, parse_status
from ghostfleet_operator.kinds.crd import KINDS, openapi
from ghostfleet_operator.kinds.meta import ConditionStatus
from ghostfleet_operator.kinds.profile import LatencyProfileStatus
from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.plan.waves import Canary, Member, Rejected, Truth
from ghostfleet_operator.resolve import Reason, Unresolved
from ghostfleet_operator.status import Observation, Obstacle, Workload, profile_status, server_status
from ghostfleet_simulator.document import Document, live_hash
from ghostfleet_simulator.problems import InvalidInput, Problem

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
PLAN = planned(replicas=2, profileRef={"name": "mid-size"})
HASH = PLAN.document.hash


def workload(wanted: int = 2, ready: int = 2, **change: Any) -> Workload:
    facts = Workload(
        wanted=wanted,
        observed=True,
        replicas=wanted,
        ready=ready,
        updated=wanted,
        available=ConditionStatus.TRUE,
        reason="MinimumReplicasAvailable",
        message="fine",
        trouble=None,
    )
    return dataclasses.replace(facts, **change)


def replica(name: str, ready: bool = True, revision: int | None = 1, digest: str | None = HASH) -> Replica:
    reason = None if digest == HASH else "connection refused"
    return Replica(name, f"10.0.0.{len(name)}", ready, {}, revision, digest, reason)


BOTH = (replica("p1"), replica("p2"))


def seen(**change: Any) -> Observation:
    """A server of two replicas at generation 3 with nothing to wish for, unless changed."""
    facts = {"plan": PLAN, "workload": workload(), "replicas": BOTH} | change
    return Observation(**({"namespace": "lab", "name": "alpha", "generation": 3, "now": NOW} | facts))


def on_top(status: dict[str, Any], later: float = 0.0, **change: Any) -> Observation:
    """An observation of `later` seconds after, that finds `status` written."""
    return seen(previous=parse_status({"status": status}), now=NOW + timedelta(seconds=later), **change)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def message(status: dict[str, Any], aspect: str) -> str:
    return next(c["message"] for c in status["conditions"] if c["type"] == aspect)


POOLED = planned(replicas=2, profileRef={"name": "mid-size"}, networking={"inferencePool": {}})


def test_a_pool_that_is_wanted_is_a_part_of_being_ready() -> None:
    assert "InferencePoolApplied" not in conditions(server_status(seen()))
    found = server_status(seen(plan=POOLED))
    assert conditions(found)["InferencePoolApplied"] == ("True", "Applied")
    assert conditions(found)["Ready"] == ("True", "Ready")


@pytest.mark.parametrize(
    ("obstacle", "aspect"),
    [
        (Obstacle("NotInstalled", "install it", permanent=False), "Reconciling"),
        (Obstacle("NotEnabled", "tell the operator", permanent=True), "Stalled"),
    ],
)
def test_what_is_in_the_way_of_a_pool_is_told_after_what_is_in_the_way_of_pods(obstacle: Obstacle, aspect: str) -> None:
    found = conditions(server_status(seen(plan=POOLED, pool_obstacle=obstacle)))
    assert found["InferencePoolApplied"] == ("False", obstacle.reason)
    assert found["Ready"] == ("False", f"InferencePool{obstacle.reason}")
    assert found[aspect] == ("True", f"InferencePool{obstacle.reason}")
    pods = conditions(server_status(seen(plan=POOLED, pool_obstacle=obstacle, workload=workload(ready=1))))
    assert pods["Reconciling"] == ("True", "PodsNotReady")
    assert "Stalled" not in pods


def test_while_a_spec_cannot_be_used_its_pool_is_told_of_as_it_was() -> None:
    before = server_status(seen(plan=POOLED))
    invalid = Obstacle.invalid(InvalidInput([Problem("spec.replicas", "is wrong")]))
    found = conditions(server_status(on_top(before, plan=None, obstacle=invalid)))
    assert found["InferencePoolApplied"] == ("True", "Applied")


def test_a_first_touch_says_that_work_has_begun() -> None:
    status = server_status(seen(plan=None, workload=None, replicas=()))
    found = conditions(status)
    assert found["Ready"] == ("Unknown", "Reconciling")
    assert found["Reconciling"] == ("True", "Reconciling")
    assert "Stalled" not in found
    assert status["observedGeneration"] == 3


def test_a_server_is_ready_when_all_that_is_wanted_runs() -> None:
    status = server_status(seen())
    assert conditions(status) == {
        "Ready": ("True", "Ready"),
        "ProfileResolved": ("True", "Resolved"),
        "ProfileSynced": ("True", "Synced"),
        "WorkloadAvailable": ("True", "MinimumReplicasAvailable"),
    }
    assert message(status, "Ready") == "2 replicas run revision 1"
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 2, 2)
    assert status["selector"] == "ghostfleet.dev/server=alpha"
    assert status["url"] == "http://alpha.lab.svc:8000"
    assert status["profile"]["source"] == {"kind": "LatencyProfile", "name": "mid-size", "generation": 5}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workload": workload(observed=False)}, "RollingOut"),
        ({"workload": workload(wanted=1)}, "RollingOut"),
        ({"workload": workload(updated=1)}, "RollingOut"),
        ({"workload": workload(replicas=3)}, "RollingOut"),
        ({"workload": workload(ready=1)}, "PodsNotReady"),
        ({"replicas": BOTH[:1]}, "PodsNotReady"),
        ({"workload": workload(available=ConditionStatus.FALSE, reason="TooFew")}, "TooFew"),
        ({"replicas": (BOTH[0], replica("p2", revision=0, digest="old"))}, "ProfileLagging"),
        ({"plan": None, "unresolved": Unresolved(Reason.NOT_FOUND, "no such profile")}, "ProfileNotFound"),
        ({"obstacle": Obstacle("WriteFailed", "quota", permanent=False)}, "WriteFailed"),
    ],
)
def test_work_in_progress_is_not_ready_and_says_what_it_waits_for(change: dict[str, Any], reason: str) -> None:
    found = conditions(server_status(seen(**change)))
    assert found["Ready"] == ("False", reason)
    assert found["Reconciling"] == ("True", reason)
    assert "Stalled" not in found


@pytest.mark.parametrize(
    ("change", "reason", "part"),
    [
        (
            {"plan": None, "obstacle": Obstacle.invalid(InvalidInput([Problem("spec.seed", "too odd")]))},
            "Invalid",
            "spec.seed: too odd",
        ),
        ({"obstacle": Obstacle.name_conflict("Deployment", "alpha")}, "NameConflict", "Deployment 'alpha' exists"),
        ({"plan": None, "unresolved": Unresolved(Reason.INVALID, "bad profile")}, "ProfileInvalid", "bad profile"),
        ({"plan": None, "unresolved": Unresolved(Reason.NOT_ENABLED, "not told")}, "ProfileNotEnabled", "not told"),
    ],
)
def test_what_only_a_person_can_mend_is_stalled(change: dict[str, Any], reason: str, part: str) -> None:
    status = server_status(seen(**change))
    found = conditions(status)
    assert found["Ready"] == ("False", reason)
    assert found["Stalled"] == ("True", reason)
    assert "Reconciling" not in found
    assert part in message(status, "Stalled")


STEPS = {"steps": [{"percent": 50, "pause": {}}]}
WAITING = planned(replicas=2, profileRef={"name": "mid-size"}, rollout=STEPS)
NEW = planned(current=PLAN.document, profile={"simple": {"timeToFirstToken": "1ms"}}).document


def in_a_wave(*members: str, held: bool = False) -> Truth:
    canary = Canary(NEW, NOW, members=dict.fromkeys(members, Member()), held=NOW if held else None)
    return Truth(PLAN.document, canary)


def test_a_wave_is_work_in_progress_and_who_waits_for_its_turn_does_not_lag() -> None:
    first, other = replica("p1", revision=2, digest=NEW.hash), replica("p2")
    status = server_status(seen(plan=WAITING, truth=in_a_wave("p1"), replicas=(first, other)))
    found = conditions(status)
    assert found["Ready"] == ("False", "ProfileCanary")
    assert found["Reconciling"] == ("True", "ProfileCanary")
    assert found["ProfileSynced"] == ("False", "Canary")
    profile = status["profile"]
    assert profile["desired"]["revision"] == 2
    assert (profile["syncedReplicas"], profile["laggingReplicas"]) == (1, 0)
    wave = profile["rollout"]
    assert (wave["revision"], wave["step"], wave["steps"]) == (2, 1, 1)
    assert (wave["waveReplicas"], wave["syncedReplicas"]) == (1, 1)
    paused = server_status(seen(plan=WAITING, truth=in_a_wave("p1", held=True), replicas=(first, other)))
    assert conditions(paused)["Ready"] == ("False", "ProfileCanaryPaused")
    assert "waits for spec.rollout.promote" in message(paused, "Ready")
    late = server_status(seen(plan=WAITING, truth=in_a_wave("p1", "p2"), replicas=(first, other)))
    assert [pod["pod"] for pod in late["profile"]["lagging"]] == ["p2"]


def test_a_document_that_was_taken_back_is_stalled_and_says_why() -> None:
    rejected = Rejected(2, NEW.hash, "policy", "Refused", "p1: refused: too long (422)", NOW)
    back = Document(PLAN.document.config, 3, HASH)
    truth = Truth(back, rejected=rejected)
    replicas = tuple(replica(name, revision=3) for name in ("p1", "p2"))
    status = server_status(seen(plan=WAITING, truth=truth, replicas=replicas))
    found = conditions(status)
    assert found["Ready"] == ("False", "ProfileRolledBack")
    assert found["Stalled"] == ("True", "ProfileRolledBack")
    assert found["ProfileSynced"] == ("False", "RolledBack")
    expected = "revision 2 was rolled back (Refused): p1: refused: too long (422); revision 3 is what ran before"
    assert message(status, "Stalled") == expected
    assert status["profile"]["desired"]["revision"] == 3
    assert status["profile"]["rejected"]["hash"] == NEW.hash


def test_pods_that_keep_an_older_document_until_they_are_replaced_do_not_lag_but_it_is_not_synced() -> None:
    truth = Truth(NEW, file="server-new.json", kept={"server-old.json": PLAN.document})
    pods = (
        dataclasses.replace(replica("p1"), file="server-old.json"),
        dataclasses.replace(replica("p2", revision=2, digest=NEW.hash), file="server-new.json"),
    )
    status = server_status(seen(plan=WAITING, truth=truth, replicas=pods))
    assert conditions(status)["ProfileSynced"] == ("False", "Restarting")
    assert status["profile"]["laggingReplicas"] == 0


def test_what_keeps_pods_from_being_ready_is_counted_by_its_reason() -> None:
    def stuck(name: str, word: str, text: str) -> Replica:
        return Replica(name, None, False, trouble=(word, text))

    pods = (
        stuck("p3", "Unschedulable", "0/3 nodes are available"),
        stuck("p2", "ImagePullBackOff", "the same"),
        stuck("p1", "ImagePullBackOff", "no such image"),
    )
    status = server_status(seen(workload=workload(ready=0), replicas=pods))
    assert conditions(status)["Ready"] == ("False", "PodsNotReady")
    expected = "0 of 2 replicas are Ready: 2 ImagePullBackOff (p1: no such image), 1 Unschedulable (p3: 0/3 nodes"
    assert expected in message(status, "Ready")


def test_a_suspended_server_and_one_scaled_to_zero_are_ready() -> None:
    for spec, reason in (({"replicas": 2, "suspend": True}, "Suspended"), ({"replicas": 0}, "ScaledToZero")):
        status = server_status(seen(plan=planned(**spec), workload=workload(wanted=0, ready=0), replicas=()))
        assert conditions(status)["Ready"] == ("True", reason)
        assert conditions(status)["ProfileSynced"] == ("True", "NoReplicas")


def test_no_ready_pod_means_that_nothing_is_proven() -> None:
    status = server_status(seen(workload=workload(ready=0), replicas=(replica("p1", ready=False),)))
    assert conditions(status)["ProfileSynced"] == ("Unknown", "NoReadyPods")


def test_a_pod_that_is_not_ready_does_not_hold_the_profile_back() -> None:
    replicas = (replica("p1"), replica("p2", ready=False, revision=None, digest=None))
    status = server_status(seen(workload=workload(ready=1), replicas=replicas))
    assert conditions(status)["ProfileSynced"] == ("True", "Synced")
    assert conditions(status)["Ready"] == ("False", "PodsNotReady")


def test_pods_that_lag_are_listed_with_what_they_run_and_why_ten_at_most() -> None:
    old = [replica(f"q{number:02}", revision=0, digest="old") for number in range(30)]
    unasked = Replica("a1", "10.0.0.1", True)
    status = server_status(seen(replicas=(*old, unasked, *BOTH)))
    profile = status["profile"]
    assert (profile["syncedReplicas"], profile["laggingReplicas"], len(profile["lagging"])) == (2, 31, 10)
    assert profile["lagging"][0] == {"pod": "a1", "reason": "not asked yet"}
    assert profile["lagging"][1] == {"pod": "q00", "revision": 0, "hash": "old", "reason": "connection refused"}
    assert message(status, "ProfileSynced") == "2 of 33 Ready pods run revision 1; a1: not asked yet"


def test_a_deleted_profile_leaves_the_proof_of_the_last_one() -> None:
    before = server_status(seen())
    gone = Unresolved(Reason.NOT_FOUND, "there is no profile")
    status = server_status(on_top(before, plan=None, unresolved=gone))
    assert conditions(status)["ProfileResolved"] == ("False", "NotFound")
    assert conditions(status)["ProfileSynced"] == ("True", "Synced")
    assert status["profile"]["desired"] == before["profile"]["desired"]
    assert status["profile"]["source"] == before["profile"]["source"]


def test_the_words_of_the_deployment_are_passed_on() -> None:
    stuck = workload(ready=0, available=ConditionStatus.FALSE, trouble="quota exceeded")
    status = server_status(seen(workload=stuck, replicas=()))
    assert message(status, "Ready") == "0 of 2 replicas are Ready: quota exceeded"


def test_endpoints_are_the_ready_pods_thirty_two_at_most_in_a_stable_order() -> None:
    pods = tuple(Replica(f"p{n:03}", f"10.0.1.{n}", n != 5, {}, 1, HASH) for n in reversed(range(40)))
    status = server_status(seen(replicas=pods))
    assert status["endpointCount"] == 39
    assert len(status["endpoints"]) == 32
    assert status["endpoints"][0] == {"address": "10.0.1.0", "port": 8000, "adminPort": 9101, "pod": "p000", "rank": 0}
    assert [e["pod"] for e in status["endpoints"]] == [f"p{n:03}" for n in range(33) if n != 5]


def test_an_endpoint_tells_where_its_kv_events_are() -> None:
    """What a subscriber dials, and the topic with the pod's own address in it."""
    events = {
        "enableKvCacheEvents": True,
        "replayEndpoint": "tcp://*:5600",
        "topic": "kv@$(POD_IP):$(PORT)@$(MODEL)",
    }
    status = server_status(seen(plan=planned(kvEvents=events)))
    assert [(e["address"], e["kvEvents"]) for e in status["endpoints"]] == [
        (
            e["address"],
            {
                "endpoint": f"tcp://{e['address']}:5557",
                "replayEndpoint": f"tcp://{e['address']}:5600",
                "topic": f"kv@{e['address']}:8000@org/model",
            },
        )
        for e in status["endpoints"]
    ]
    assert status["endpoints"]
    connecting = {"enableKvCacheEvents": True, "endpoint": "tcp://epp:5557"}
    (first, *_) = server_status(seen(plan=planned(kvEvents=connecting)))["endpoints"]
    assert first["kvEvents"] == {"endpoint": "tcp://epp:5557", "topic": ""}


@pytest.mark.parametrize(
    ("pods", "wanted", "verdict", "word"),
    [
        (BOTH, 2, ("True", "Publishing"), "every Ready pod"),
        (
            (BOTH[0], dataclasses.replace(BOTH[1], silent="rank 0 is silent")),
            2,
            ("False", "NotPublishing"),
            "p2: rank 0",
        ),
        ((BOTH[0], replica("p2", revision=None, digest=None)), 2, ("Unknown", "NotAsked"), "p2: connection refused"),
        ((dataclasses.replace(BOTH[0], ready=False, silent="it starts"),), 2, ("Unknown", "NoReadyPods"), "no pod"),
        ((), 0, ("True", "NoReplicas"), "no pod"),
    ],
)
def test_kv_events_are_ready_when_every_ready_pod_publishes_them(
    pods: tuple[Replica, ...], wanted: int, verdict: tuple[str, str], word: str
) -> None:
    """Whatever comes of it, the server is no less Ready: an indexer may come later."""
    plan = planned(replicas=wanted, kvEvents={"enableKvCacheEvents": True})
    status = server_status(seen(plan=plan, workload=workload(wanted), replicas=pods))
    assert conditions(status)["KVEventsReady"] == verdict
    assert word in message(status, "KVEventsReady")
    assert "KVEvents" not in conditions(status)["Ready"][1]


def test_nothing_is_said_of_kv_events_that_nobody_wants() -> None:
    silent = tuple(dataclasses.replace(pod, silent="rank 0 publishes no KV events") for pod in BOTH)
    assert "KVEventsReady" not in conditions(server_status(seen(replicas=silent)))


def test_every_rank_is_an_endpoint() -> None:
    """Behind one port or on a port of its own, with its number, its events and, on ports, its topic."""
    events = {"enableKvCacheEvents": True, "topic": "kv@$(POD_IP):$(PORT)@m"}
    pods = (Replica("p", "10.0.1.1", True, {}, 1, HASH),)
    status = server_status(seen(replicas=pods, plan=planned(dataParallelSize=2, kvEvents=events)))
    assert status["endpointCount"] == 2
    assert [(e["rank"], e["port"], *e["kvEvents"].values()) for e in status["endpoints"]] == [
        (0, 8000, "tcp://10.0.1.1:5557", "kv@10.0.1.1:8000@m"),
        (1, 8000, "tcp://10.0.1.1:5558", "kv@10.0.1.1:8000@m"),
    ]
    ranked = (Replica("p", "10.0.1.1", True, {}, 1, HASH, ports=(8000, 8002), has_ranks=True),)
    plan = planned(dataParallelSize=3, dataParallelPortPerRank=True, kvEvents=events)
    status = server_status(seen(replicas=ranked, plan=plan))
    assert [(e["rank"], e["port"], *e["kvEvents"].values()) for e in status["endpoints"]] == [
        (0, 8000, "tcp://10.0.1.1:5557", "kv@10.0.1.1:8000@m"),
        (2, 8002, "tcp://10.0.1.1:5559", "kv@10.0.1.1:8002@m"),
    ]


def test_a_transition_time_is_that_of_the_last_change_of_status() -> None:
    first = server_status(seen(replicas=BOTH[:1]))
    second = server_status(on_top(first, 10, workload=workload(updated=1)))  # still not ready, for another reason
    third = server_status(on_top(second, 20))
    times = [
        next(c["lastTransitionTime"] for c in status["conditions"] if c["type"] == "Ready")
        for status in (first, second, third)
    ]
    assert times == ["2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z", "2026-03-01T12:00:20Z"]


def test_the_time_of_a_sync_is_measured_from_the_pass_that_wanted_it() -> None:
    began = NOW - timedelta(milliseconds=412)
    status = server_status(seen(began=began))
    assert status["profile"]["desired"]["since"] == "2026-03-01T11:59:59.838000Z"
    assert status["profile"]["lastSyncDuration"] == "0.412s"
    assert status["profile"]["lastSyncTime"] == "2026-03-01T12:00:00.250000Z"


def test_a_sync_that_takes_several_passes_is_measured_over_all_of_them() -> None:
    lagging = server_status(seen(replicas=(BOTH[0], replica("p2", revision=0, digest="old"))))
    assert "lastSyncDuration" not in lagging["profile"]
    status = server_status(on_top(lagging, 3))
    assert status["profile"]["lastSyncDuration"] == "3.000s"


def test_a_pod_that_drifted_and_came_back_is_measured_from_when_it_drifted() -> None:
    synced = server_status(seen())
    drifted = server_status(on_top(synced, 100, replicas=(BOTH[0], replica("p2", digest="patched"))))
    assert drifted["profile"]["lastSyncTime"] == synced["profile"]["lastSyncTime"]
    back = server_status(on_top(drifted, 102))
    assert back["profile"]["lastSyncDuration"] == "2.250s"  # conditions count whole seconds


def test_a_new_revision_that_is_synced_in_one_pass_counts_as_a_sync_of_its_own() -> None:
    first = server_status(seen())
    newer = planned(current=PLAN.document, replicas=2, profile={"simple": {"timeToFirstToken": "1ms"}})
    replicas = tuple(replica(name, revision=2, digest=newer.document.hash) for name in ("p1", "p2"))
    began = NOW + timedelta(seconds=59.5)
    status = server_status(on_top(first, 60, plan=newer, replicas=replicas, began=began))
    assert status["profile"]["desired"]["revision"] == 2
    assert status["profile"]["lastSyncDuration"] == "0.500s"
    assert status["profile"]["source"] == {"kind": "Inline", "generation": 3}


PROBLEMS = st.sampled_from(
    [
        {},
        {"plan": None},
        {"plan": None, "unresolved": Unresolved(Reason.NOT_FOUND, "gone")},
        {"plan": None, "unresolved": Unresolved(Reason.INVALID, "bad")},
        {"plan": None, "obstacle": Obstacle("Invalid", "x" * 9000, permanent=True)},
        {"obstacle": Obstacle.name_conflict("Service", "alpha")},
        {"obstacle": Obstacle("Write failed!", "later", permanent=False)},
        {"plan": planned(suspend=True)},
        {"plan": planned(replicas=1000)},
        {"plan": WAITING, "truth": in_a_wave("p1", "p7")},
        {"plan": WAITING, "truth": in_a_wave("p2", held=True)},
        {"plan": None, "truth": in_a_wave("p2"), "unresolved": Unresolved(Reason.NOT_FOUND, "gone"), "scale": 3},
        {"plan": WAITING, "truth": Truth(NEW, rejected=Rejected(1, HASH, "x", "Errors", "z" * 900, NOW))},
        {"plan": WAITING, "truth": Truth(NEW, file="server-x.json", kept={"server.json": PLAN.document})},
    ]
)
WORKLOADS = st.one_of(
    st.none(),
    st.builds(
        Workload,
        wanted=st.integers(0, 3),
        observed=st.booleans(),
        replicas=st.integers(0, 4),
        ready=st.integers(0, 3),
        updated=st.integers(0, 3),
        available=st.sampled_from(ConditionStatus),
        reason=st.sampled_from(["MinimumReplicasAvailable", "MinimumReplicasUnavailable"]),
        message=st.text(max_size=5),
        trouble=st.sampled_from([None, "no quota"]),
    ),
)
REPLICAS = st.lists(
    st.builds(
        Replica,
        name=st.sampled_from([f"p{number}" for number in range(40)]),
        address=st.sampled_from([None, "10.0.0.1", "fd00::1", ""]),
        ready=st.booleans(),
        labels=st.just({}),
        revision=st.sampled_from([None, 0, 1, 2]),
        hash=st.sampled_from([None, HASH, "other"]),
        reason=st.sampled_from([None, "refused", "y" * 3000]),
    ),
    max_size=40,
    unique_by=lambda found: found.name,
).map(tuple)
OBSERVATIONS = st.builds(
    lambda problems, facts, replicas: {"plan": PLAN, **problems, "workload": facts, "replicas": replicas},
    PROBLEMS,
    WORKLOADS,
    REPLICAS,
)
STATUS = jsonschema.Draft7Validator(openapi(KINDS[0])["properties"]["status"])


@settings(max_examples=200, deadline=None)
@given(OBSERVATIONS, OBSERVATIONS, st.integers(0, 10**6))
def test_any_observation_gives_a_status_that_holds_together(
    first: dict[str, Any], second: dict[str, Any], later: int
) -> None:
    """On top of any earlier status: valid for the API, stable when nothing changes, and never two answers at once."""
    before = server_status(seen(**first))
    status = server_status(on_top(before, later, **second))
    STATUS.validate(status)
    assert server_status(on_top(status, later + 5000, **second)) == status

    found = conditions(status)
    assert {"Ready", "ProfileResolved", "ProfileSynced", "WorkloadAvailable"} <= found.keys()
    assert all(c["observedGeneration"] == 3 == status["observedGeneration"] for c in status["conditions"])
    ready = found["Ready"][0] == "True"
    assert [ready, "Reconciling" in found, "Stalled" in found].count(True) == 1
    on = [pod for pod in second["replicas"] if pod.ready]
    desired = status["profile"].get("desired", {}).get("hash")
    if found["ProfileSynced"][0] == "True":
        assert all(pod.hash == desired for pod in on)
        assert not {"rollout", "rejected"} & status["profile"].keys() or not on
    if ready:
        wanted = second["plan"].replicas
        assert found["ProfileResolved"][0] == found["ProfileSynced"][0] == found["WorkloadAvailable"][0] == "True"
        assert len(on) >= wanted == second["workload"].wanted
        assert not second.get("obstacle")
    assert all(re.fullmatch(r"[A-Za-z0-9]+", reason) for _, reason in found.values())


def test_the_facts_of_a_deployment_are_read_from_the_object() -> None:
    raw = {
        "metadata": {"generation": 4},
        "spec": {"replicas": 3},
        "status": {
            "observedGeneration": 4,
            "replicas": 4,
            "readyReplicas": 2,
            "updatedReplicas": 1,
            "conditions": [
                {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "too few"},
                {"type": "Progressing", "status": "False", "message": "deadline exceeded"},
            ],
        },
    }
    assert Workload.of(raw) == Workload(
        wanted=3,
        observed=True,
        replicas=4,
        ready=2,
        updated=1,
        available=ConditionStatus.FALSE,
        reason="MinimumReplicasUnavailable",
        message="too few",
        trouble="deadline exceeded",
    )
    fresh = Workload.of({"metadata": {"generation": 1}, "spec": {"replicas": 1}})
    assert (fresh.observed, fresh.available, fresh.trouble) == (False, ConditionStatus.UNKNOWN, None)


def test_pods_that_cannot_be_made_are_the_deployments_trouble() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": "forbidden: quota"}
    assert Workload.of({"spec": {}, "status": {"conditions": [failure]}}).trouble == "forbidden: quota"


def profile(found: Any, previous: LatencyProfileStatus | None = None, later: int = 0) -> dict[str, Any]:
    return profile_status(
        found,
        generation=5,
        used_by=2,
        previous=previous or LatencyProfileStatus(),
        now=NOW + timedelta(seconds=later),
    )


def test_a_profile_says_that_it_is_valid_who_uses_it_and_what_hash_its_servers_have() -> None:
    found = parse_profile(raw_profile(timeToFirstToken="50ms"))
    status = profile(found)
    assert conditions(status) == {"Ready": ("True", "Valid"), "Valid": ("True", "Valid")}
    assert (status["usedBy"], status["observedGeneration"]) == (2, 5)
    assert status["hash"] == live_hash(resolved(profileRef={"name": "mid-size"}).config)
    assert profile(found, LatencyProfileStatus.model_validate(status), later=60) == status


def test_an_invalid_profile_is_shown_on_the_profile_and_kstatus_calls_it_failed() -> None:
    status = profile(InvalidInput([Problem("spec.simple.tick", "too small")]))
    assert conditions(status) == {
        "Ready": ("False", "Invalid"),
        "Valid": ("False", "Invalid"),
        "Stalled": ("True", "Invalid"),
    }
    assert message(status, "Valid") == message(status, "Stalled") == "spec.simple.tick: too small"
    assert "hash" not in status
