"""What a pass over a server learnt: all that its status follows from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ghostfleet_operator.kinds.meta import ConditionStatus
from ghostfleet_operator.kinds.rollout import Rollout
from ghostfleet_operator.kinds.server_status import ServerStatus
from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.plan.waves import Truth
from ghostfleet_operator.resolve import Unresolved
from ghostfleet_simulator.problems import InvalidInput


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

    @property
    def settled(self) -> bool:
        """Whether it has replaced all pods that it means to."""
        return self.observed and self.updated >= self.wanted and self.replicas <= self.updated

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
    truth: Truth | None = None
    """What the ConfigMap holds; without it the plan's."""
    scale: int | None = None
    """Replicas that are wanted where there is no plan; without it the Deployment's."""
    unresolved: Unresolved | None = None
    obstacle: Obstacle | None = None
    pool_obstacle: Obstacle | None = None
    """What is in the way of the `InferencePool`."""
    workload: Workload | None = None
    replicas: tuple[Replica, ...] = ()

    @property
    def wanted(self) -> int:
        """Replicas that should run."""
        if self.plan:
            return self.plan.replicas
        if self.scale is not None:
            return self.scale
        return self.workload.wanted if self.workload else 0

    @property
    def documents(self) -> Truth | None:
        """Which documents pods should run."""
        return self.truth or (self.plan.truth if self.plan else None)

    @property
    def policy(self) -> Rollout:
        """How new documents come to pods; nothing special while the spec cannot be used."""
        return self.plan.resolved.server.spec.rollout if self.plan else Rollout()
