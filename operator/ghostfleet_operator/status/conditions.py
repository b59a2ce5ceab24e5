"""Verdicts on aspects of an object, and the conditions they become."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ghostfleet_operator.kinds.meta import Condition, ConditionStatus

_MOST_MESSAGE: Final = 2048


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an aspect holds, and why."""

    status: ConditionStatus
    reason: str
    message: str


def true(reason: str, message: str) -> Verdict:
    """It holds."""
    return Verdict(ConditionStatus.TRUE, reason, message)


def false(reason: str, message: str) -> Verdict:
    """It does not hold."""
    return Verdict(ConditionStatus.FALSE, reason, message)


def unknown(reason: str, message: str) -> Verdict:
    """It is not known."""
    return Verdict(ConditionStatus.UNKNOWN, reason, message)


def conditions(
    verdicts: Mapping[str, Verdict], previous: tuple[Condition, ...], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """The conditions of an object; a time of transition stays while the status does."""
    before = {condition.type: condition for condition in previous}
    made = []
    for aspect, verdict in verdicts.items():
        old = before.get(aspect)
        # The one that an object is made with is about no generation, and nothing has begun with it.
        same = old is not None and old.status is verdict.status and old.observed_generation > 0
        made.append(
            Condition(
                type=aspect,
                status=verdict.status,
                reason=re.sub(r"[^A-Za-z0-9]", "", verdict.reason) or "Unknown",
                message=verdict.message[:_MOST_MESSAGE],
                observed_generation=generation,
                last_transition_time=old.last_transition_time if old and same else utc(now).replace(microsecond=0),
            )
        )
    return tuple(made)


def utc(moment: datetime) -> datetime:
    """The same moment in UTC."""
    return moment.astimezone(UTC)
