"""How far documents have come: `ProfileSynced` and `status.profile`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ghostfleet_operator.kinds.meta import ConditionStatus
from ghostfleet_operator.kinds.rollout import Rollout
from ghostfleet_operator.kinds.server_status import (
    MOST_LAGGING,
    Desired,
    Lagging,
    ProfileStatus,
    RejectedStatus,
    RolloutStatus,
    Source,
)
from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.plan.waves import Canary, revision_of, waits_for_promotion
from ghostfleet_operator.resolve import INLINE
from ghostfleet_operator.status.conditions import Verdict, false, true, unknown, utc
from ghostfleet_operator.status.observation import Observation


@dataclass(frozen=True, slots=True)
class Delivery:
    """Which Ready pods run what all should run in the end, and which do not run what they should by now."""

    desired: Desired | None
    ready: tuple[Replica, ...]
    synced: tuple[Replica, ...]
    behind: tuple[Replica, ...]


def delivery_of(seen: Observation) -> Delivery:
    """What was observed of the way of documents to pods."""
    desired, documents = _desired(seen), seen.documents
    ready = tuple(sorted((replica for replica in seen.replicas if replica.ready), key=lambda found: found.name))
    wanted = desired.hash if desired else None

    def is_behind(replica: Replica) -> bool:
        if documents is None:
            return replica.hash != wanted or wanted is None
        due = documents.due(replica.name, replica.file)
        return due is not None and replica.hash != due.hash

    synced = tuple(replica for replica in ready if wanted and replica.hash == wanted)
    return Delivery(desired, ready, synced, tuple(filter(is_behind, ready)))


def synced_verdict(seen: Observation, delivery: Delivery) -> Verdict:
    """`ProfileSynced`."""
    desired, documents = delivery.desired, seen.documents
    if desired is None:
        return unknown("NotResolved", "there is no profile to run yet")
    if documents and documents.rejected:
        rejected = documents.rejected
        text = f"revision {rejected.revision} was rolled back ({rejected.reason}): {rejected.message}"
        return false("RolledBack", f"{text}; revision {desired.revision} is what ran before{_lag(delivery)}")
    if documents and documents.canary and (delivery.ready or seen.wanted):
        return _canary(documents.canary, seen.policy, delivery)
    return _all_at_once(seen, desired, delivery)


def _all_at_once(seen: Observation, desired: Desired, delivery: Delivery) -> Verdict:
    synced, ready = len(delivery.synced), len(delivery.ready)
    if delivery.behind or synced < ready:
        text = f"{synced} of {ready} Ready pods run revision {desired.revision}"
        if delivery.behind:
            return false("Lagging", text + _lag(delivery))
        return false("Restarting", f"{text}; the others keep theirs until the Deployment replaces them")
    if ready:
        return true("Synced", f"every Ready pod runs revision {desired.revision}")
    if seen.wanted:
        return unknown("NoReadyPods", "no pod is Ready yet")
    return true("NoReplicas", "there is no pod to run it")


def _canary(canary: Canary, policy: Rollout, delivery: Delivery) -> Verdict:
    number, steps = canary.step + 1, len(policy.steps)
    step = f"step {number} of {steps}" if steps else f"step {number}, which stands still"
    running = sum(replica.name in canary.members for replica in delivery.synced)
    text = f"revision {canary.document.revision}, {step}: {running} of {len(canary.members)} pods of the wave run it"
    if waits_for_promotion(canary, policy):
        text += "; waits for spec.rollout.promote"
    return false("CanaryPaused" if canary.held else "Canary", text + _lag(delivery))


def _lag(delivery: Delivery) -> str:
    if not delivery.behind:
        return ""
    first = delivery.behind[0]
    why = first.reason or (f"runs revision {first.revision}" if first.revision is not None else "not asked yet")
    return f"; {first.name}: {why}"


def _desired(seen: Observation) -> Desired | None:
    """The document that all pods should run in the end; while nothing is known of it, what it was."""
    before = seen.previous.profile.desired if seen.previous.profile else None
    if seen.documents is None:
        return before
    target = seen.documents.target
    revision, digest = revision_of(target), target.hash
    if before and before.revision == revision and before.hash == digest and before.since:
        return before
    return Desired(revision=revision, hash=digest, since=utc(seen.began or seen.now))


def profile_part(seen: Observation, delivery: Delivery, synced: Verdict) -> ProfileStatus:
    """`status.profile`."""
    before = seen.previous.profile or ProfileStatus()
    source, desired, behind = before.source, delivery.desired, delivery.behind
    if seen.plan:
        found = seen.plan.resolved.source
        inline = found.kind == INLINE
        source = Source(kind=found.kind, name=None if inline else found.name, generation=found.generation)
    duration, time = before.last_sync_duration, before.last_sync_time
    is_synced = synced.status is ConditionStatus.TRUE and bool(delivery.ready)
    if is_synced and desired and not _was_synced(seen, desired):
        time = utc(seen.now)
        took = (time - _sync_start(seen, desired)).total_seconds()
        duration = f"{max(took, 0.0):.3f}s"
    return ProfileStatus(
        source=source,
        desired=desired,
        synced_replicas=len(delivery.synced),
        lagging_replicas=len(behind),
        lagging=tuple(
            Lagging(pod=r.name, revision=r.revision, hash=r.hash, reason=(r.reason or "not asked yet")[:1024])
            for r in behind[:MOST_LAGGING]
        ),
        rollout=_rollout(seen, delivery),
        rejected=_rejected(seen),
        last_sync_duration=duration,
        last_sync_time=time,
    )


def _rollout(seen: Observation, delivery: Delivery) -> RolloutStatus | None:
    canary = seen.documents.canary if seen.documents else None
    if canary is None:
        return None
    return RolloutStatus(
        revision=revision_of(canary.document),
        hash=canary.document.hash,
        step=canary.step + 1,
        steps=len(seen.policy.steps) or None,
        wave_replicas=len(canary.members),
        synced_replicas=sum(replica.name in canary.members for replica in delivery.synced),
        start_time=utc(canary.began),
        hold_time=utc(canary.held) if canary.held else None,
    )


def _rejected(seen: Observation) -> RejectedStatus | None:
    found = seen.documents.rejected if seen.documents else None
    if found is None:
        return None
    return RejectedStatus(
        revision=found.revision, hash=found.hash, reason=found.reason, message=found.message, time=utc(found.time)
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
