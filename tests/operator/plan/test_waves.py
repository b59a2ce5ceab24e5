"""The rule by which a new document comes to pods, wave by wave, and goes back."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.objects import resolved

from ghostfleet_operator.kinds.rollout import Rollout
from ghostfleet_operator.plan.documents import annotations_of, data_of, truth_of
from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.plan.waves import Truth, advance, due_in, judged, revision_of, waits_for_promotion, wave_size
from ghostfleet_operator.resolve import Resolved

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
CANARY: dict[str, Any] = {"steps": [{"percent": 20}], "ackTimeout": "10s"}


def wanting(ttft: str = "20ms", rollout: dict[str, Any] | None = None, **spec: Any) -> Resolved:
    return resolved(profile={"simple": {"timeToFirstToken": ttft}}, rollout=rollout or {}, **spec)


class Pods:
    """Pods by name that take what they should run when they are told to; `truth` is what the ConfigMap holds."""

    def __init__(self, number: int, wanted: Resolved) -> None:
        self.now = NOW
        self.wanted = wanted
        self.truth = advance(None, wanted, (), floor=0, settled=True, now=NOW)
        self.pods = {f"p{n:02}": Replica(f"p{n:02}", "10.0.0.1", ready=True) for n in range(number)}
        self.deliver()

    def deliver(self, *deaf: str) -> None:
        for name, pod in self.pods.items():
            due = self.truth.due(name, pod.file)
            if due and pod.reachable and name not in deaf:
                self.pods[name] = dataclasses.replace(pod, revision=due.revision, hash=due.hash, reason=None)

    def change(self, name: str, **facts: Any) -> None:
        self.pods[name] = dataclasses.replace(self.pods[name], **facts)

    def look(
        self, wanted: Resolved | None = None, later: float = 0.0, *, settled: bool = True, floor: int = 0
    ) -> Truth:
        self.wanted = wanted or self.wanted
        self.now += timedelta(seconds=later)
        self.truth = advance(
            self.truth, self.wanted, tuple(self.pods.values()), floor=floor, settled=settled, now=self.now
        )
        return self.truth

    @property
    def wave(self) -> list[str]:
        return sorted(self.truth.canary.members) if self.truth.canary else []

    @property
    def running(self) -> dict[int | None, int]:
        """Number of pods by the revision that they run."""
        found: dict[int | None, int] = {}
        for pod in self.pods.values():
            found[pod.revision] = found.get(pod.revision, 0) + 1
        return found


def ttft_of(truth: Truth) -> str:
    return str(truth.stable.config.profile.simple.time_to_first_token)


def test_without_steps_a_new_document_is_for_all_pods_at_once() -> None:
    fleet = Pods(5, wanting("20ms"))
    truth = fleet.look(wanting("30ms"))
    assert (truth.canary, revision_of(truth.stable), ttft_of(truth)) == (None, 2, "30ms")
    assert fleet.look() == truth


def test_a_wave_gets_the_document_first_and_the_file_keeps_the_old_one_until_the_wave_proved_it() -> None:
    fleet = Pods(10, wanting("20ms"))
    fleet.look(wanting("30ms", CANARY))
    assert len(fleet.wave) == 2
    assert (revision_of(fleet.truth.stable), ttft_of(fleet.truth)) == (1, "20ms"), "what a pod that starts reads"
    assert revision_of(fleet.truth.target) == 2
    assert fleet.look() == fleet.truth, "nothing new, nothing changes"
    fleet.deliver()
    assert fleet.running == {1: 8, 2: 2}
    fleet.look()
    assert (fleet.truth.canary, revision_of(fleet.truth.stable), ttft_of(fleet.truth)) == (None, 2, "30ms")
    fleet.deliver()
    assert fleet.running == {2: 10}


@pytest.mark.parametrize(
    ("percent", "pods", "size"),
    [
        (1, 10, 1),
        (10, 10, 1),
        (11, 10, 2),
        (50, 3, 2),
        (99, 2, 1),
        (100, 2, 2),
        (1, 1, 1),
        (100, 0, 0),
        (33, 1000, 330),
    ],
)
def test_a_wave_is_rounded_up_but_is_not_all_of_several(percent: int, pods: int, size: int) -> None:
    assert wave_size(percent, pods) == size


def test_who_is_in_the_wave_follows_from_the_names_alone() -> None:
    one, other = Pods(30, wanting("20ms")), Pods(30, wanting("20ms"))
    shuffled = list(other.pods.items())
    random.Random(3).shuffle(shuffled)
    other.pods = dict(shuffled)
    for fleet in (one, other):
        fleet.look(wanting("30ms", CANARY))
    assert one.wave == other.wave
    one.pods["a-new-one"] = Replica("a-new-one", "10.0.0.9", ready=True)
    before = set(one.wave)
    one.look()
    assert before <= set(one.wave), "nobody is pushed out of a wave"


def test_steps_wait_for_their_wave_for_their_time_and_for_a_person() -> None:
    steps = [{"percent": 10, "pause": {"duration": "1m"}}, {"percent": 50, "pause": {}}, {"percent": 90, "pause": {}}]
    policy = {"steps": steps}
    fleet = Pods(10, wanting("20ms"))
    fleet.look(wanting("30ms", policy))
    assert due_in(fleet.truth, fleet.wanted.server.spec.rollout, fleet.now) == 30.0, "the time to acknowledge"
    fleet.look(later=5)
    assert len(fleet.wave) == 1
    fleet.deliver()
    fleet.look(later=5)
    assert due_in(fleet.truth, fleet.wanted.server.spec.rollout, fleet.now) == 60.0
    fleet.look(later=59)
    assert len(fleet.wave) == 1
    fleet.look(later=1)
    assert len(fleet.wave) == 5
    fleet.deliver()
    fleet.look(later=1)
    fleet.look(later=100_000)
    assert len(fleet.wave) == 5
    assert fleet.truth.canary is not None
    assert waits_for_promotion(fleet.truth.canary, fleet.wanted.server.spec.rollout)
    assert due_in(fleet.truth, fleet.wanted.server.spec.rollout, fleet.now) is None
    for other in ({"revision": 1}, {"revision": 3}, {"revision": 2, "step": 1}):
        fleet.look(wanting("30ms", {**policy, "promote": other}))
        assert len(fleet.wave) == 5, "a word about something else"
    fleet.look(wanting("30ms", {**policy, "promote": {"revision": 2, "step": 2}}))
    assert len(fleet.wave) == 9
    fleet.deliver()
    fleet.look(later=100_000)
    assert len(fleet.wave) == 9
    fleet.look(wanting("30ms", {**policy, "promote": {"revision": 2}}))
    assert (fleet.truth.canary, revision_of(fleet.truth.stable)) == (None, 2)


def test_a_pause_begins_anew_when_a_pod_of_the_wave_falls_behind() -> None:
    policy = {"steps": [{"percent": 20, "pause": {"duration": "60s"}}]}
    fleet = Pods(10, wanting("20ms"))
    fleet.look(wanting("30ms", policy))
    fleet.deliver()
    fleet.look(later=1)
    fleet.change(fleet.wave[0], revision=2, hash="sha256:patched")
    fleet.look(later=50)
    fleet.deliver()
    fleet.look(later=1)
    fleet.look(later=59)
    assert fleet.truth.canary is not None
    fleet.look(later=1)
    assert fleet.truth.canary is None


def begun(policy: dict[str, Any] | None = None, pods: int = 10) -> Pods:
    fleet = Pods(pods, wanting("20ms"))
    fleet.look(wanting("30ms", policy or CANARY))
    return fleet


def rolled_back(fleet: Pods, reason: str) -> None:
    """The wave goes back to what ran before under a number that it accepts, and what failed is not tried again."""
    truth = fleet.truth
    assert truth.canary is None
    assert truth.rejected is not None
    assert (truth.rejected.revision, truth.rejected.reason) == (2, reason)
    assert (revision_of(truth.stable), ttft_of(truth)) == (3, "20ms")
    fleet.deliver()
    assert fleet.running == {3: len(fleet.pods)}
    assert fleet.look(later=1000) == truth


def test_a_refused_document_is_taken_back_at_once() -> None:
    fleet = begun()
    fleet.change(fleet.wave[1], refused=(422, fleet.truth.target.hash), reason="refused: too long (422)")
    fleet.look()
    assert fleet.truth.rejected is not None
    assert "refused: too long (422)" in fleet.truth.rejected.message
    rolled_back(fleet, "Refused")


def test_a_refusal_of_an_earlier_document_says_nothing_about_this_one() -> None:
    fleet = Pods(10, wanting("20ms"))
    for name in fleet.pods:
        fleet.change(name, refused=(422, "sha256:earlier"), reason="refused: earlier (422)")
    fleet.look(wanting("30ms", CANARY))
    fleet.look()
    assert fleet.truth.rejected is None


def test_a_wave_that_does_not_acknowledge_in_time_goes_back() -> None:
    fleet = begun()
    silent = fleet.wave[0]
    fleet.deliver(silent)
    fleet.change(silent, revision=None, hash=None, reason="timeout: no answer")
    fleet.look(later=9.9)
    assert fleet.truth.canary is not None
    fleet.look(later=0.1)
    fleet.change(silent, revision=1)
    rolled_back(fleet, "NotAcknowledged")


def test_time_that_passed_while_no_operator_ran_is_no_failure_of_a_pod() -> None:
    fleet = begun()
    fleet.look(later=3600)
    assert fleet.truth.canary is not None
    fleet.deliver()
    fleet.look()
    assert revision_of(fleet.truth.stable) == 2


def test_a_pod_of_the_wave_that_stays_unready_or_restarts_takes_the_document_back() -> None:
    fleet = begun()
    fleet.deliver()
    fleet.truth = dataclasses.replace(fleet.truth)
    unready = fleet.wave[0]
    fleet.change(unready, ready=False, trouble=("CrashLoopBackOff", "back-off"))
    fleet.look(later=1)
    fleet.look(later=10)
    assert fleet.truth.rejected is not None
    assert "CrashLoopBackOff: back-off" in fleet.truth.rejected.message
    fleet.change(unready, ready=True)
    rolled_back(fleet, "NotReady")

    fleet = begun()
    fleet.deliver()
    fleet.change(fleet.wave[0], restarts=1)
    fleet.look()
    rolled_back(fleet, "Restarted")


def test_errors_count_from_when_a_pod_took_the_document_and_only_where_they_are_asked_for() -> None:
    paused = {"steps": [{"percent": 20, "pause": {"duration": "60s"}}]}
    for policy, failing in ((paused, False), ({**paused, "maxErrorPercent": 5}, True)):
        fleet = begun(policy)
        fleet.deliver()
        one, other = fleet.wave
        fleet.change(one, requests=5000, errors=5000)
        fleet.look(later=1)
        fleet.change(one, requests=5019, errors=5019)
        fleet.look(later=1)
        assert fleet.truth.canary is not None, "too few requests to judge"
        fleet.change(other, requests=81, errors=0)
        fleet.look(later=1)
        assert (fleet.truth.rejected is not None) is failing
    rolled_back(fleet, "Errors")


def test_pods_that_go_away_are_replaced_in_the_wave_and_are_no_failure() -> None:
    fleet = begun()
    gone = fleet.wave[0]
    del fleet.pods[gone]
    fleet.look(later=100)
    assert gone not in fleet.wave
    assert len(fleet.wave) == 2
    fleet.deliver()
    fleet.look()
    assert revision_of(fleet.truth.stable) == 2


def test_what_was_taken_back_is_tried_again_when_what_is_wanted_or_the_policy_changes() -> None:
    def failed() -> Pods:
        fleet = begun()
        fleet.change(fleet.wave[0], refused=(422, fleet.truth.target.hash), reason="refused: no (422)")
        fleet.look()
        assert fleet.truth.rejected is not None
        for name in fleet.pods:
            fleet.change(name, refused=None)
        fleet.deliver()
        return fleet

    fleet = failed()
    fleet.look(wanting("30ms", CANARY, replicas=7))
    assert fleet.truth.rejected is not None, "an autoscaler's word is none about the document"
    fleet.look(wanting("31ms", CANARY))
    assert fleet.truth.canary is not None
    assert revision_of(fleet.truth.target) == 4
    fleet = failed()
    fleet.look(wanting("30ms", {**CANARY, "ackTimeout": "20s"}))
    assert fleet.truth.canary is not None
    fleet = failed()
    fleet.look(wanting("20ms", CANARY))
    assert (fleet.truth.canary, fleet.truth.rejected) == (None, None)
    fleet.look(wanting("30ms", CANARY))
    assert fleet.truth.canary is not None


def test_going_back_by_hand_in_the_middle_brings_the_wave_back() -> None:
    fleet = begun()
    fleet.deliver()
    fleet.look(wanting("20ms", CANARY))
    assert (fleet.truth.canary, fleet.truth.rejected) == (None, None)
    assert revision_of(fleet.truth.stable) == 3
    fleet.deliver()
    assert fleet.running == {3: 10}


def test_a_newer_document_in_the_middle_starts_anew_with_the_pods_that_were_in_the_wave() -> None:
    policy = {"steps": [{"percent": 20}, {"percent": 60, "pause": {}}]}
    fleet = begun(policy)
    first = fleet.wave
    fleet.deliver()
    fleet.look()
    fleet.deliver()
    assert fleet.running == {1: 4, 2: 6}
    fleet.look(wanting("40ms", policy))
    assert (revision_of(fleet.truth.stable), revision_of(fleet.truth.target)) == (3, 4)
    assert len(fleet.wave) == 2
    assert set(fleet.wave) & set(first)
    fleet.deliver()
    assert fleet.running == {3: 8, 4: 2}, "who is not in the wave any more is back on what ran before"


def test_a_document_that_comes_while_nobody_is_ready_is_taken_at_once() -> None:
    fleet = Pods(3, wanting("20ms"))
    for name in fleet.pods:
        fleet.change(name, ready=False)
    fleet.look(wanting("30ms", CANARY))
    assert (fleet.truth.canary, revision_of(fleet.truth.stable)) == (None, 2)


def test_what_needs_a_restart_changes_both_documents_and_no_revision() -> None:
    fleet = begun()
    fleet.look(wanting("30ms", CANARY, scheduling={"maxNumSeqs": 7}))
    assert fleet.truth.stable.config.scheduling.max_num_seqs == 7
    assert fleet.truth.target.config.scheduling.max_num_seqs == 7
    assert (revision_of(fleet.truth.stable), revision_of(fleet.truth.target)) == (1, 2)


def test_a_pod_that_somebody_gave_a_greater_revision_lifts_what_it_should_run() -> None:
    fleet = begun()
    fleet.deliver()
    fleet.change(fleet.wave[0], revision=40)
    fleet.look()
    assert (revision_of(fleet.truth.stable), revision_of(fleet.truth.target)) == (1, 41)
    outside = next(name for name in fleet.pods if name not in fleet.wave)
    fleet.deliver()
    fleet.change(outside, revision=50, hash="sha256:x")
    fleet.look()
    assert (revision_of(fleet.truth.stable), revision_of(fleet.truth.target)) == (51, 52)
    fleet.deliver()
    assert fleet.running == {51: 8, 52: 2}


def test_a_status_ahead_of_the_config_map_lifts_all_of_it() -> None:
    fleet = begun()
    fleet.look(floor=30)
    assert (revision_of(fleet.truth.stable), revision_of(fleet.truth.target)) == (31, 32)


RESTART = {"strategy": "Restart"}


def test_with_restart_pods_keep_the_document_that_they_started_with() -> None:
    fleet = Pods(2, wanting("20ms", RESTART))
    file = fleet.truth.file
    assert file != "server.json"
    for name in fleet.pods:
        fleet.change(name, file=file, revision=1)
    fleet.look(wanting("30ms", RESTART), settled=False)
    assert (revision_of(fleet.truth.stable), list(fleet.truth.kept)) == (2, [file])
    assert fleet.truth.file != file
    fleet.deliver()
    assert fleet.running == {1: 2}, "nothing new is due to them"
    fleet.change("p00", file=fleet.truth.file, revision=2)
    del fleet.pods["p01"]
    fleet.look(settled=False)
    assert list(fleet.truth.kept) == [file], "the Deployment may still make one of the old template"
    fleet.look()
    assert not fleet.truth.kept


def test_a_change_of_the_strategy_leaves_older_pods_what_they_have() -> None:
    fleet = Pods(2, wanting("20ms"))
    fleet.look(wanting("30ms", RESTART), settled=False)
    assert list(fleet.truth.kept) == ["server.json"]
    fleet.deliver()
    assert fleet.running == {1: 2}
    new = fleet.truth.file
    for name in fleet.pods:
        fleet.change(name, file=new, revision=2)
    fleet.look(wanting("40ms"), settled=False)
    assert fleet.truth.file == "server.json"
    assert fleet.truth.due("p00", new) == fleet.truth.stable, "and back: everybody is pushed to"


def test_one_that_keeps_an_older_document_lifts_no_revision() -> None:
    fleet = begun()
    fleet.deliver()
    fleet.look(wanting("30ms", RESTART), settled=False)
    assert fleet.look(settled=False) == fleet.truth
    assert revision_of(fleet.truth.stable) == 2


EVENTS = st.one_of(
    st.tuples(st.just("want"), st.integers(20, 24)),
    st.tuples(st.just("policy"), st.integers(0, 4)),
    st.tuples(st.just("deliver"), st.integers(0, 6)),
    st.tuples(st.just("time"), st.integers(0, 40)),
    st.tuples(st.just("unready"), st.integers(0, 6)),
    st.tuples(st.just("ready"), st.integers(0, 6)),
    st.tuples(st.just("refuse"), st.integers(0, 6)),
    st.tuples(st.just("start anew"), st.integers(0, 6)),
    st.tuples(st.just("ahead"), st.integers(0, 6)),
    st.tuples(st.just("delete"), st.integers(0, 6)),
)
POLICIES: list[dict[str, Any]] = [
    {},
    CANARY,
    {"steps": [{"percent": 40, "pause": {"duration": "5s"}}, {"percent": 80}], "ackTimeout": "10s"},
    {"steps": [{"percent": 30, "pause": {}}]},
    RESTART,
]


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_whatever_happens_revisions_grow_nobody_is_sent_back_and_in_the_end_all_run_one_document(
    events: list[tuple[str, int]],
) -> None:
    ttft, policy = "20ms", POLICIES[0]
    fleet = Pods(6, wanting(ttft))
    added = 0
    for event, number in events:
        names = sorted(fleet.pods)
        name = names[number % len(names)]
        if event == "want":
            ttft = f"{number}ms"
        elif event == "policy":
            policy = POLICIES[number]
        elif event == "deliver":
            fleet.deliver(name)
        elif event in ("unready", "ready"):
            fleet.change(name, ready=event == "ready")
        elif event == "refuse":
            due = fleet.truth.due(name, fleet.pods[name].file)
            fleet.change(name, reason="refused: no (422)", refused=(422, due.hash if due else ""))
        elif event == "start anew":
            fleet.change(name, restarts=fleet.pods[name].restarts + 1, revision=None, hash=None)
        elif event == "ahead":
            fleet.change(name, revision=(fleet.pods[name].revision or 0) + number, hash="sha256:x")
        elif event == "delete":
            del fleet.pods[name]
            added += 1
            fresh = Replica(f"n{added}", "10.0.0.1", ready=True, file=fleet.truth.file)
            fleet.pods[fresh.name] = fresh
        before = fleet.truth
        truth = fleet.look(wanting(ttft, policy), later=number if event == "time" else 0.1, settled=number % 2 == 0)
        assert truth.highest >= before.highest
        assert revision_of(truth.target) >= revision_of(before.stable)
        assert not (truth.canary and truth.rejected)
        stored = {"metadata": {"annotations": annotations_of(truth)}, "data": data_of(truth)}
        assert truth_of(stored) == truth, "an operator that starts now goes on from the same"
    for name in list(fleet.pods):
        fleet.change(name, ready=True, refused=None, reason=None, file=fleet.truth.file)
    final = wanting("99ms", {"steps": [{"percent": 30}, {"percent": 60}]})
    for _ in range(8):
        fleet.look(final, later=1.0)
        for name in fleet.pods:
            fleet.change(name, file=fleet.truth.file)
        fleet.deliver()
    assert fleet.look() == fleet.truth
    assert (fleet.truth.canary, fleet.truth.rejected, ttft_of(fleet.truth)) == (None, None, "99ms")
    assert fleet.running == {revision_of(fleet.truth.stable): 6}


# --- while it is not known what is wanted ------------------------------------------------------------

HELD: dict[str, Any] = {"steps": [{"percent": 20, "pause": {"duration": "60s"}}, {"percent": 50, "pause": {}}]}


def held_fleet(policy: dict[str, Any]) -> Pods:
    fleet = Pods(10, wanting("20ms"))
    fleet.look(wanting("30ms", policy))
    fleet.deliver()
    fleet.look()
    assert fleet.truth.canary is not None
    assert fleet.truth.canary.held == fleet.now
    return fleet


def look_away(fleet: Pods, policy: Rollout, later: float) -> Truth:
    """A look while spec or profile cannot be used."""
    fleet.now += timedelta(seconds=later)
    fleet.truth = judged(fleet.truth, policy, tuple(fleet.pods.values()), fleet.now)
    return fleet.truth


@pytest.mark.parametrize("known", [True, False], ids=["the rollout is valid", "the rollout is invalid"])
def test_a_wave_stands_still_and_goes_on_where_it_stood(known: bool) -> None:
    fleet = held_fleet(HELD)
    policy = fleet.wanted.server.spec.rollout if known else Rollout()
    before, wave = fleet.truth, fleet.wave
    assert look_away(fleet, policy, 300.0) == before, "its pause is over, and nobody says what comes next"
    del fleet.pods[wave[0]]
    look_away(fleet, policy, 1.0)
    assert fleet.wave == wave[1:], "nobody takes the place of a pod that is gone"
    fleet.look()
    assert fleet.truth.canary is not None
    assert (fleet.truth.canary.step, len(fleet.wave)) == (0, 2), "now somebody does, and the step waits for it"
    fleet.deliver()
    fleet.look()
    assert fleet.look(later=60.0).canary == fleet.truth.canary
    assert len(fleet.wave) == 5, "the next step"


def test_a_wave_whose_pods_all_run_it_goes_on_at_once_when_its_pause_is_over_meanwhile() -> None:
    fleet = held_fleet(HELD)
    look_away(fleet, Rollout(), 61.0)
    truth = fleet.look()
    assert truth.canary is not None
    assert (truth.canary.step, len(fleet.wave)) == (1, 5)


@pytest.mark.parametrize(
    ("trouble", "later", "reason"),
    [({"restarts": 1}, 0.0, "Restarted"), ({"ready": False}, 31.0, "NotReady")],
)
def test_a_wave_that_fails_meanwhile_goes_back_and_is_not_tried_again(
    trouble: dict[str, Any], later: float, reason: str
) -> None:
    fleet = held_fleet(HELD)
    policy = fleet.wanted.server.spec.rollout
    fleet.change(fleet.wave[0], **trouble)
    look_away(fleet, policy, 0.0)
    truth = look_away(fleet, policy, later)
    assert truth.rejected is not None
    assert (truth.canary, revision_of(truth.stable), ttft_of(truth)) == (None, 3, "20ms")
    assert truth.rejected.reason == reason
    assert look_away(fleet, policy, 60.0) == truth
    assert fleet.look() == truth, "the same spec, valid again"


def test_errors_are_not_looked_at_where_the_rollout_itself_is_invalid() -> None:
    fleet = held_fleet({**HELD, "maxErrorPercent": 5})
    fleet.change(fleet.wave[0], requests=100, errors=50)
    assert look_away(fleet, Rollout(), 0.0).rejected is None
    rejected = look_away(fleet, fleet.wanted.server.spec.rollout, 0.0).rejected
    assert rejected is not None
    assert rejected.reason == "Errors"


def test_without_a_wave_nothing_is_judged() -> None:
    fleet = Pods(3, wanting("20ms"))
    fleet.change("p00", ready=False, restarts=7)
    assert look_away(fleet, Rollout(), 600.0) == fleet.truth
