"""From what was observed to conditions and status; pure, and right for kstatus at every moment.

`Ready` is True only while what is wanted is wholly what runs. While it is not, exactly one of `Reconciling` (work is
going on, or waits for something that will come) and `Stalled` (only a change by a person can help) is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ghostfleet_operator.kinds.meta import Condition, ConditionStatus
from ghostfleet_operator.kinds.profile import LatencyProfileStatus, ProfileResource
from ghostfleet_operator.kinds.server import (
    MOST_ENDPOINTS,
    MOST_LAGGING,
    Desired,
    Endpoint,
    Lagging,
    ProfileStatus,
    ServerStatus,
    Source,
)
from ghostfleet_operator.plan.kubernetes import selector
from ghostfleet_operator.plan.observed import Replica, serving
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.resolve import ADMIN_PORT, INLINE, PORT, Reason, Unresolved
from ghostfleet_simulator.config import LiveConfig
from ghostfleet_simulator.document import live_hash
from ghostfleet_simulator.problems import InvalidInput

_MOST_MESSAGE: Final = 2048


@dataclass(frozen=True, slots=True)
class Workload:
    """What a Deployment says about itself."""

    wanted: int
    """`spec.replicas`."""
    observed: bool
    """Whether its controller has seen the newest spec."""
    replicas: int
    ready: int
    updated: int
    available: ConditionStatus
    """Its `Available` condition, with reason and message."""
    reason: str
    message: str
    trouble: str | None
    """Why it makes no progress or cannot make pods, in its own words."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Workload:
        """The facts in a raw Deployment."""
        status = raw.get("status") or {}
        conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
        available = conditions.get("Available", {})
        failure, progress = conditions.get("ReplicaFailure", {}), conditions.get("Progressing", {})
        trouble = (
            failure.get("message", "")
            if failure.get("status") == "True"
            else progress.get("message", "")
            if progress.get("status") == "False"
            else None
        )
        return cls(
            wanted=raw.get("spec", {}).get("replicas", 1),
            observed=status.get("observedGeneration", 0) >= raw.get("metadata", {}).get("generation", 1),
            replicas=status.get("replicas", 0),
            ready=status.get("readyReplicas", 0),
            updated=status.get("updatedReplicas", 0),
            available=ConditionStatus(available.get("status", "Unknown")),
            reason=available.get("reason") or "NotObserved",
            message=available.get("message", ""),
            trouble=trouble,
        )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a pass from its end: an invalid spec, a foreign child, a write that was refused."""

    reason: str
    """One CamelCase word: `Invalid`, `NameConflict`, `WriteFailed`, ..."""
    message: str
    permanent: bool
    """Whether only a change by a person can help; otherwise the pass is tried again."""

    @classmethod
    def invalid(cls, error: InvalidInput) -> Obstacle:
        """A spec that cannot be used."""
        return cls("Invalid", str(error), permanent=True)

    @classmethod
    def name_conflict(cls, kind: str, name: str) -> Obstacle:
        """A child that exists and belongs to somebody else."""
        text = f"{kind} {name!r} exists and does not belong to this server; delete or rename it, or rename the server"
        return cls("NameConflict", text, permanent=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that a pass over one server learnt; the status follows from it alone.

    A first touch has neither plan nor workload. `plan` is None where the spec is invalid or the profile unresolved.
    `began` is when the pass saw what it wants (by default `now`): a new document counts from there. All times are
    aware.
    """

    namespace: str
    name: str
    generation: int
    now: datetime
    previous: ServerStatus = field(default_factory=ServerStatus)
    began: datetime | None = None
    plan: ServerPlan | None = None
    unresolved: Unresolved | None = None
    obstacle: Obstacle | None = None
    workload: Workload | None = None
    replicas: tuple[Replica, ...] = ()

    @property
    def wanted(self) -> int:
        """Replicas that should run."""
        return self.plan.replicas if self.plan else self.workload.wanted if self.workload else 0


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: ConditionStatus
    reason: str
    message: str


def _true(reason: str, message: str) -> _Verdict:
    return _Verdict(ConditionStatus.TRUE, reason, message)


def _false(reason: str, message: str) -> _Verdict:
    return _Verdict(ConditionStatus.FALSE, reason, message)


def _unknown(reason: str, message: str) -> _Verdict:
    return _Verdict(ConditionStatus.UNKNOWN, reason, message)


def server_status(seen: Observation) -> dict[str, Any]:
    """The status of a server, as JSON; the same observation on top of its own result gives the same again."""
    desired = _desired(seen)
    ready = [replica for replica in seen.replicas if replica.ready]
    behind = sorted((r for r in ready if desired is None or r.hash != desired.hash), key=lambda r: r.name)
    synced = _synced(seen, desired, len(ready), behind)
    parts = {"ProfileResolved": _resolved(seen), "ProfileSynced": synced, "WorkloadAvailable": _available(seen)}
    overall = _ready(seen, parts, len(ready))
    verdicts = {"Ready": overall, **parts}
    if overall.status is not ConditionStatus.TRUE:
        verdicts["Stalled" if _stalled(seen) else "Reconciling"] = _true(overall.reason, overall.message)
    endpoints = serving(seen.replicas)
    workload = seen.workload
    status = ServerStatus(
        conditions=_conditions(verdicts, seen.previous.conditions, seen.generation, seen.now),
        observed_generation=seen.generation,
        replicas=workload.replicas if workload else 0,
        ready_replicas=workload.ready if workload else 0,
        updated_replicas=workload.updated if workload else 0,
        selector=selector(seen.name),
        profile=_profile(seen, desired, synced, len(ready), behind),
        endpoints=tuple(
            Endpoint(address=address, port=PORT, admin_port=ADMIN_PORT, pod=replica.name, rank=0)
            for replica, address in endpoints[:MOST_ENDPOINTS]
        ),
        endpoint_count=len(endpoints),
        url=f"http://{seen.name}.{seen.namespace}.svc:{PORT}",
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def profile_status(
    found: ProfileResource | InvalidInput,
    *,
    generation: int,
    used_by: int,
    previous: LatencyProfileStatus,
    now: datetime,
) -> dict[str, Any]:
    """The status of a profile, as JSON, from what parsing it gave and the number of servers that refer to it."""
    if isinstance(found, InvalidInput):
        digest, verdict = None, _false("Invalid", str(found))
    else:
        digest = live_hash(LiveConfig(profile=found.spec))
        verdict = _true("Valid", "the profile can be used")
    status = LatencyProfileStatus(
        conditions=_conditions({"Valid": verdict}, previous.conditions, generation, now),
        observed_generation=generation,
        used_by=used_by,
        hash=digest,
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _resolved(seen: Observation) -> _Verdict:
    if seen.unresolved:
        return _false(seen.unresolved.reason.value, seen.unresolved.message)
    if seen.plan:
        source = seen.plan.resolved.source
        text = "the server's own profile" if source.kind == INLINE else f"{source.kind} {source.name!r}"
        return _true("Resolved", text)
    if seen.obstacle:
        return _unknown(seen.obstacle.reason, seen.obstacle.message)
    return _unknown("Reconciling", "not looked at yet")


def _synced(seen: Observation, desired: Desired | None, ready: int, behind: list[Replica]) -> _Verdict:
    if desired is None:
        return _unknown("NotResolved", "there is no profile to run yet")
    if behind:
        first = behind[0]
        why = first.reason or (f"runs revision {first.revision}" if first.revision is not None else "not asked yet")
        text = f"{ready - len(behind)} of {ready} Ready pods run revision {desired.revision}; {first.name}: {why}"
        return _false("Lagging", text)
    if ready:
        return _true("Synced", f"every Ready pod runs revision {desired.revision}")
    if seen.wanted:
        return _unknown("NoReadyPods", "no pod is Ready yet")
    return _true("NoReplicas", "there is no pod to run it")


def _available(seen: Observation) -> _Verdict:
    workload = seen.workload
    if workload is None:
        return _unknown("NotObserved", "the Deployment has not been seen yet")
    return _Verdict(workload.available, workload.reason, workload.message)


def _ready(seen: Observation, parts: Mapping[str, _Verdict], ready: int) -> _Verdict:
    in_the_way = next(_not_ready(seen, parts, ready), None)
    if in_the_way or seen.plan is None:
        return in_the_way or _unknown("Reconciling", "the server is being set up")
    if not seen.wanted:
        suspended = seen.plan.resolved.server.spec.suspend
        return _true(*(("Suspended", "suspended") if suspended else ("ScaledToZero", "no replicas are wanted")))
    run = "replica runs" if seen.wanted == 1 else "replicas run"
    return _true("Ready", f"{seen.wanted} {run} revision {seen.plan.revision}")


def _not_ready(seen: Observation, parts: Mapping[str, _Verdict], ready: int) -> Iterator[_Verdict]:
    """What is in the way of `Ready`, in the order in which things have to come about."""
    workload, wanted = seen.workload, seen.wanted
    if seen.obstacle:
        yield _false(seen.obstacle.reason, seen.obstacle.message)
    if seen.unresolved:
        yield _false(f"Profile{seen.unresolved.reason.value}", seen.unresolved.message)
    if seen.plan is None or workload is None:
        yield _unknown("Reconciling", "the server is being set up")
        return
    if not workload.observed or workload.wanted != wanted:
        yield _false("RollingOut", "the Deployment has not taken over the newest spec yet")
    if workload.updated < wanted or workload.replicas > workload.updated:
        text = f"{workload.updated} of {wanted} replicas have the newest pod template, {workload.replicas} pods exist"
        yield _false("RollingOut", workload.trouble or text)
    if min(workload.ready, ready) < wanted:
        text = f"{min(workload.ready, ready)} of {wanted} replicas are Ready"
        yield _false("PodsNotReady", f"{text}: {workload.trouble}" if workload.trouble else text)
    available, synced = parts["WorkloadAvailable"], parts["ProfileSynced"]
    if available.status is not ConditionStatus.TRUE:
        yield available
    if synced.status is not ConditionStatus.TRUE:
        yield _Verdict(synced.status, f"Profile{synced.reason}", synced.message)


def _stalled(seen: Observation) -> bool:
    if seen.obstacle:
        return seen.obstacle.permanent
    return seen.unresolved is not None and seen.unresolved.reason is not Reason.NOT_FOUND


def _desired(seen: Observation) -> Desired | None:
    """The document that pods should run: the plan's, or the last one while there is no plan."""
    before = seen.previous.profile.desired if seen.previous.profile else None
    if seen.plan is None:
        return before
    revision, digest = seen.plan.revision, seen.plan.document.hash
    if before and before.revision == revision and before.hash == digest and before.since:
        return before
    return Desired(revision=revision, hash=digest, since=_utc(seen.began or seen.now))


def _profile(
    seen: Observation, desired: Desired | None, synced: _Verdict, ready: int, behind: list[Replica]
) -> ProfileStatus:
    before = seen.previous.profile or ProfileStatus()
    source = before.source
    if seen.plan:
        found = seen.plan.resolved.source
        inline = found.kind == INLINE
        source = Source(kind=found.kind, name=None if inline else found.name, generation=found.generation)
    duration, time = before.last_sync_duration, before.last_sync_time
    is_synced = synced.status is ConditionStatus.TRUE and ready > 0
    if is_synced and desired and not _was_synced(seen, desired):
        time = _utc(seen.now)
        took = (time - _sync_start(seen, desired)).total_seconds()
        duration = f"{max(took, 0.0):.3f}s"
    return ProfileStatus(
        source=source,
        desired=desired,
        synced_replicas=ready - len(behind),
        lagging_replicas=len(behind),
        lagging=tuple(
            Lagging(pod=r.name, revision=r.revision, hash=r.hash, reason=(r.reason or "not asked yet")[:1024])
            for r in behind[:MOST_LAGGING]
        ),
        last_sync_duration=duration,
        last_sync_time=time,
    )


def _was_synced(seen: Observation, desired: Desired) -> bool:
    before, condition = seen.previous.profile, seen.previous.condition("ProfileSynced")
    same = before is not None and before.desired == desired and bool(before.synced_replicas)
    return same and condition is not None and condition.status is ConditionStatus.TRUE


def _sync_start(seen: Observation, desired: Desired) -> datetime:
    """When the wait that ends now began: with the document, or, if all pods ran it before, when one fell behind."""
    since = desired.since or seen.now
    before, condition = seen.previous.profile, seen.previous.condition("ProfileSynced")
    last = before.last_sync_time if before else None
    if last is None or condition is None or last < since:
        return since
    return condition.last_transition_time


def _conditions(
    verdicts: Mapping[str, _Verdict], previous: tuple[Condition, ...], generation: int, now: datetime
) -> tuple[Condition, ...]:
    before = {condition.type: condition for condition in previous}
    made = []
    for aspect, verdict in verdicts.items():
        old = before.get(aspect)
        same = old is not None and old.status is verdict.status
        made.append(
            Condition(
                type=aspect,
                status=verdict.status,
                reason=re.sub(r"[^A-Za-z0-9]", "", verdict.reason) or "Unknown",
                message=verdict.message[:_MOST_MESSAGE],
                observed_generation=generation,
                last_transition_time=old.last_transition_time if old and same else _utc(now).replace(microsecond=0),
            )
        )
    return tuple(made)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
