"""Kubernetes Events about our objects: transitions only; the same one again counts up instead of making another."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from ghostfleet_operator.kinds.meta import Condition, ConditionStatus, rfc3339
from ghostfleet_operator.kinds.server_status import ProfileStatus, ServerStatus
from ghostfleet_operator.plan.naming import FIELD_MANAGER
from ghostfleet_operator.reconcile.api import EVENT, KubeApi, KubeError, Object
from ghostfleet_operator.reconcile.correlation import Correlator
from ghostfleet_operator.status import POOL_APPLIED

_LONGEST: Final = 1000

log = logging.getLogger(__name__)


class Severity(StrEnum):
    """The two types of Events."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell: `reason` in CamelCase for programs, `message` for people."""

    severity: Severity
    reason: str
    message: str


def transitions(before: ServerStatus, after: ServerStatus) -> Iterator[Notice]:
    """What changed in a server's status that deserves an Event, each reason once; pure."""
    told = set()
    for condition in after.conditions:
        old = before.condition(condition.type)
        is_new = old is None or (old.status, old.reason) != (condition.status, condition.reason)
        notice = _notice(condition) if is_new else None
        if notice and notice.reason not in told:
            told.add(notice.reason)
            yield notice
    synced, last = after.profile, before.profile
    yield from _steps(last, synced)
    rejected = synced.rejected if synced else None
    if rejected and "ProfileRolledBack" not in told and rejected != (last.rejected if last else None):
        # `Stalled` tells it, unless it has something else to tell: that the spec is invalid.
        text = f"revision {rejected.revision} was rolled back ({rejected.reason}): {rejected.message}"
        yield Notice(Severity.WARNING, "ProfileRolledBack", text)
    if synced and synced.last_sync_time and (last is None or last.last_sync_time != synced.last_sync_time):
        revision = synced.desired.revision if synced.desired else 0
        pods = f"{synced.synced_replicas} Ready pods" if synced.synced_replicas != 1 else "the Ready pod"
        text = f"revision {revision} runs on {pods} after {synced.last_sync_duration}"
        yield Notice(Severity.NORMAL, "ProfileSynced", text)


def _steps(before: ProfileStatus | None, after: ProfileStatus | None) -> Iterator[Notice]:
    """A revision that begins to go from wave to wave, or comes to the next one."""
    old, new = before.rollout if before else None, after.rollout if after else None
    if new is None or (old and (old.revision, old.step) == (new.revision, new.step)):
        return
    text = f"revision {new.revision}, step {new.step} of {new.steps or '?'}: to {new.wave_replicas} pods"
    is_next = old is not None and old.revision == new.revision
    yield Notice(Severity.NORMAL, "ProfileRolloutStep" if is_next else "ProfileRolloutStarted", text)


def _notice(condition: Condition) -> Notice | None:
    if condition.type == "Stalled":
        return Notice(Severity.WARNING, condition.reason, condition.message)
    if condition.type == "ProfileResolved" and condition.status is ConditionStatus.FALSE:
        return Notice(Severity.WARNING, f"Profile{condition.reason}", condition.message)
    if condition.type == POOL_APPLIED and condition.status is ConditionStatus.FALSE:
        return Notice(Severity.WARNING, f"InferencePool{condition.reason}", condition.message)
    if condition.type == "Ready" and condition.status is ConditionStatus.TRUE:
        return Notice(Severity.NORMAL, "Ready", condition.message)
    return None


class Recorder:
    """Writes Events. An Event that cannot be written is logged and forgotten: it must not fail the work it reports."""

    def __init__(self, api: KubeApi, now: Callable[[], datetime], instance: str) -> None:
        self._api = api
        self._now = now
        self._instance = instance
        self._correlator = Correlator()

    async def emit(self, about: Object, notice: Notice) -> None:
        """Say that something happened to an object."""
        meta, now = about["metadata"], self._now()
        reason = notice.reason
        told = self._correlator.take(meta["uid"], reason, notice.message[:_LONGEST], now)
        if told is None:
            log.info("too many events about %s/%s, not told: %s", meta["namespace"], meta["name"], notice.message)
            return
        name = hashlib.sha256(f"{meta['uid']}\0{told.key}".encode()).hexdigest()[:16]
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"name": f"{meta['name'][:200]}.{name}", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "type": notice.severity.value,
            "reason": reason,
            "message": told.message[:_LONGEST],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
            "firstTimestamp": rfc3339(told.first),
            "lastTimestamp": rfc3339(told.last),
            "count": told.count,
        }
        try:
            await self._api.create_event(event)
        except KubeError as error:
            log.warning("cannot write event %s of %s/%s: %s", reason, meta["namespace"], meta["name"], error)
