"""Events tell of transitions, once; the same one again counts up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ghostfleet_operator.kinds.server_status import ServerStatus
from ghostfleet_operator.reconcile.api import SERVER, KubeApi, KubeError, Object
from ghostfleet_operator.reconcile.events import Notice, Recorder, Severity, transitions

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ABOUT: Object = {
    "apiVersion": SERVER.api_version,
    "kind": SERVER.name,
    "metadata": {"name": "s", "namespace": "ns", "uid": "u"},
}


class Written:
    """Takes Events, or refuses them."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.events: list[Object] = []
        self.refuses = refuses

    async def create_event(self, event: Object) -> None:
        if self.refuses:
            raise KubeError("no")
        self.events.append(event)


def recorder(api: Written, now: list[datetime]) -> Recorder:
    as_api: KubeApi = api  # type: ignore[assignment]  # a recorder only writes Events
    return Recorder(as_api, lambda: now[0], "host")


async def test_the_same_event_again_counts_up_and_another_one_is_new() -> None:
    api, now = Written(), [NOON]
    record = recorder(api, now)
    notice = Notice(Severity.WARNING, "NameConflict", "taken")
    await record.emit(ABOUT, notice)
    now[0] += timedelta(minutes=1)
    await record.emit(ABOUT, notice)
    await record.emit(ABOUT, Notice(Severity.NORMAL, "Ready", "runs"))
    one, two, three = api.events
    assert (one["count"], two["count"], three["count"]) == (1, 2, 1)
    assert one["metadata"]["name"] == two["metadata"]["name"] != three["metadata"]["name"]
    assert (two["firstTimestamp"], two["lastTimestamp"]) == ("2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z")
    assert one["involvedObject"]["uid"] == "u"
    assert one["type"] == "Warning"


async def test_after_an_hour_it_is_a_new_one() -> None:
    api, now = Written(), [NOON]
    record = recorder(api, now)
    await record.emit(ABOUT, Notice(Severity.NORMAL, "Ready", "runs"))
    now[0] += timedelta(hours=1)
    await record.emit(ABOUT, Notice(Severity.NORMAL, "Ready", "runs"))
    assert [event["count"] for event in api.events] == [1, 1]


async def test_many_different_messages_of_one_reason_are_combined_into_one_event() -> None:
    """Ten are told; the others raise the count of an eleventh, until there was a while without any."""
    api, now = Written(), [NOON]
    record = recorder(api, now)
    for revision in range(1, 16):
        await record.emit(ABOUT, Notice(Severity.NORMAL, "ProfileSynced", f"revision {revision}"))
    assert len({event["metadata"]["name"] for event in api.events}) == 11
    assert [(event["message"], event["count"]) for event in api.events[9:]] == [
        ("revision 10", 1),
        ("(combined from similar events): revision 11", 1),
        ("(combined from similar events): revision 12", 2),
        ("(combined from similar events): revision 13", 3),
        ("(combined from similar events): revision 14", 4),
        ("(combined from similar events): revision 15", 5),
    ]
    await record.emit(ABOUT, Notice(Severity.NORMAL, "ProfileSynced", "revision 3"))
    assert (api.events[-1]["message"], api.events[-1]["count"]) == ("revision 3", 2)
    await record.emit(ABOUT, Notice(Severity.NORMAL, "Ready", "runs"))
    assert api.events[-1]["message"] == "runs", "another reason is another matter"
    now[0] += timedelta(minutes=11)
    await record.emit(ABOUT, Notice(Severity.NORMAL, "ProfileSynced", "revision 16"))
    assert (api.events[-1]["message"], api.events[-1]["count"]) == ("revision 16", 1)


async def test_an_object_may_not_flood_the_api_server_with_events() -> None:
    """Two controllers that undo each other's work would; other objects are told of all the same."""
    api, now = Written(), [NOON]
    record = recorder(api, now)
    notice = Notice(Severity.NORMAL, "DriftCorrected", "Deployment one was put right")
    for _ in range(100):
        await record.emit(ABOUT, notice)
    assert len(api.events) == 25
    await record.emit({**ABOUT, "metadata": {**ABOUT["metadata"], "uid": "other"}}, notice)
    assert len(api.events) == 26
    now[0] += timedelta(minutes=10)
    for _ in range(100):
        await record.emit(ABOUT, notice)
    assert len(api.events) == 28
    assert api.events[-1]["count"] == 27


async def test_an_event_that_cannot_be_written_fails_nothing() -> None:
    await recorder(Written(refuses=True), [NOON]).emit(ABOUT, Notice(Severity.NORMAL, "Ready", "runs"))


def status(*conditions: tuple[str, str, str], synced: datetime | None = None) -> ServerStatus:
    made: dict[str, Any] = {
        "conditions": [
            {"type": t, "status": s, "reason": r, "message": f"about {r}", "lastTransitionTime": NOON.isoformat()}
            for t, s, r in conditions
        ]
    }
    if synced:
        made["profile"] = {
            "desired": {"revision": 4, "hash": "h"},
            "syncedReplicas": 3,
            "lastSyncTime": synced.isoformat(),
            "lastSyncDuration": "0.210s",
        }
    return ServerStatus.model_validate(made)


def test_transitions_are_told_and_what_stays_is_not() -> None:
    stalled = status(("Ready", "False", "NameConflict"), ("Stalled", "True", "NameConflict"))
    assert [n.reason for n in transitions(ServerStatus(), stalled)] == ["NameConflict"]
    assert list(transitions(stalled, stalled)) == []
    ready = status(("Ready", "True", "Ready"))
    assert [(n.severity, n.reason) for n in transitions(stalled, ready)] == [(Severity.NORMAL, "Ready")]


def test_a_missing_profile_is_a_warning_and_an_invalid_one_is_told_once() -> None:
    missing = status(("ProfileResolved", "False", "NotFound"))
    assert [(n.severity, n.reason) for n in transitions(ServerStatus(), missing)] == [
        (Severity.WARNING, "ProfileNotFound")
    ]
    invalid = status(("Stalled", "True", "ProfileInvalid"), ("ProfileResolved", "False", "Invalid"))
    assert [n.reason for n in transitions(ServerStatus(), invalid)] == ["ProfileInvalid"]


def test_a_finished_sync_is_told_with_its_time() -> None:
    told = list(transitions(status(), status(synced=NOON)))
    assert [(n.reason, n.message) for n in told] == [("ProfileSynced", "revision 4 runs on 3 Ready pods after 0.210s")]
    assert list(transitions(status(synced=NOON), status(synced=NOON))) == []


def test_a_wave_is_told_of_when_it_begins_and_at_every_step() -> None:
    def at(revision: int, step: int) -> ServerStatus:
        wave = {"revision": revision, "hash": "h", "step": step, "steps": 2, "waveReplicas": 3}
        return ServerStatus.model_validate({"profile": {"rollout": wave}})

    def told(before: ServerStatus, after: ServerStatus) -> list[tuple[str, str]]:
        return [(notice.reason, notice.message) for notice in transitions(before, after)]

    begun = [("ProfileRolloutStarted", "revision 7, step 1 of 2: to 3 pods")]
    assert told(ServerStatus(), at(7, 1)) == begun
    assert told(at(6, 2), at(7, 1)) == begun
    assert told(at(7, 1), at(7, 1)) == []
    assert told(at(7, 1), at(7, 2)) == [("ProfileRolloutStep", "revision 7, step 2 of 2: to 3 pods")]


def test_a_wave_that_goes_back_while_the_spec_is_invalid_is_told_of() -> None:
    """`Stalled` goes on to tell what is invalid; where it tells of the wave itself, that is told once."""
    rejected = {"revision": 2, "hash": "h", "reason": "Restarted", "message": "p1: again", "time": NOON.isoformat()}

    def at(*conditions: tuple[str, str, str]) -> ServerStatus:
        made = status(*conditions).model_dump(mode="json", by_alias=True, exclude_none=True)
        return ServerStatus.model_validate({**made, "profile": {"rejected": rejected}})

    invalid, stalled = ("Stalled", "True", "Invalid"), ("Stalled", "True", "ProfileRolledBack")
    (told,) = transitions(status(invalid), at(invalid))
    assert (told.severity, told.reason) == (Severity.WARNING, "ProfileRolledBack")
    assert told.message == "revision 2 was rolled back (Restarted): p1: again"
    assert list(transitions(at(invalid), at(invalid))) == []
    assert [n.reason for n in transitions(status(), at(stalled))] == ["ProfileRolledBack"]
