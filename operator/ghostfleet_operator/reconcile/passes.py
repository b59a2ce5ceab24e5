"""What a pass over one server is told, what it remembers of earlier ones, and what it learns."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from ghostfleet_operator.kinds.server_status import ServerStatus
from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.plan.replicas import ServerPlan
from ghostfleet_operator.plan.waves import Truth
from ghostfleet_operator.reconcile.acknowledgements import Acknowledgements
from ghostfleet_operator.reconcile.api import CHILDREN, CONFIG_MAP, POD, PROFILES, SERVER, Kind, KubeError, Object
from ghostfleet_operator.reconcile.children import ChildMemory
from ghostfleet_operator.reconcile.pods import Pod
from ghostfleet_operator.reconcile.store import Reader
from ghostfleet_operator.reconcile.token import Keys, Tokens
from ghostfleet_operator.resolve import Unresolved
from ghostfleet_operator.status import Obstacle

EVERYTHING: Final = frozenset({SERVER, *PROFILES.values(), POD, *CHILDREN})
"""Kinds that are read from the API itself where it contradicted what was known."""
DECISIVE: Final = frozenset({SERVER, *PROFILES.values(), CONFIG_MAP})
"""Kinds that are read from the API itself before anything is given out to pods."""


_SECRETS_PER_SECOND: Final = 1.0
"""Rate at which Secrets of servers at rest are applied, of all servers together."""
_WAITING_SECONDS: Final = 20.0
"""How often a Secret is applied that a pod may be waiting for."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which server it is: all that the names of its children and their owner references follow from."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What a reconciler is told once."""

    simulator_image: str
    keys: Keys
    """What admin tokens are derived from."""
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    observe_seconds: float = 30.0
    """How often pods are asked what they run."""
    resync_seconds: float = 300.0
    """How often everything is gone through, whether or not anything changed."""
    no_cluster_profiles: str | None = None
    """Why no ClusterLatencyProfile can be used; None where they can."""
    no_inference_pools: str | None = None
    """Why no InferencePool is made; None where they are."""

    def secret_seconds(self, servers: int, *, waiting: bool) -> float:
        """How often the Secret of each of `servers` servers is applied beside the rounds over everything; nobody tells
        that one was deleted, as they may not be watched. `waiting` is whether a pod is not Ready, perhaps for lack of
        it."""
        # Looks at a server come a fifth sooner or later than every `observe_seconds`.
        calm = max(self.observe_seconds * 0.72, servers / _SECRETS_PER_SECOND)
        return min(calm if calm < self.resync_seconds else math.inf, _WAITING_SECONDS if waiting else math.inf)


@dataclass(slots=True)
class Memory:
    """What is kept of a server between passes; all of it can be lost at any time."""

    uid: str
    pods: Acknowledgements
    thorough_at: float = 0.0
    """When everything is due to be gone through, whether or not anything changed."""
    doubtful: bool = False
    """Whether the API contradicted what the store had: the next pass asks it about everything."""
    settled: tuple[object, ...] | None = None
    """What a pass went by that found nothing to do, and would find nothing again."""
    children: ChildMemory = field(default_factory=ChildMemory)
    truth: tuple[str, Truth | None] | None = None
    """What the ConfigMap holds, with its version."""
    secret_at: float = -math.inf
    """When the Secret with the tokens was last applied."""


@dataclass(slots=True)
class Pass:
    """One pass under way, and what it learns."""

    raw: Object
    reader: Reader
    memory: Memory
    kinds: Collection[Kind]
    began: datetime
    previous: ServerStatus
    names: ChildNames
    tokens: Tokens
    thorough: bool
    """Whether the Secret is applied, which nobody reads, and what is no longer wanted is looked for."""
    pods: list[Pod] = field(default_factory=list)
    truth: Truth | None = None
    """What the ConfigMap holds."""
    plan: ServerPlan | None = None
    unresolved: Unresolved | None = None
    obstacle: Obstacle | None = None
    pool_obstacle: Obstacle | None = None
    """What is in the way of the `InferencePool`."""
    scale: int | None = None
    """Replicas that are wanted where there is no plan."""
    complete: bool = False
    """Whether all was applied that could be."""
    error: KubeError | None = None
    delay: float | None = None

    @property
    def namespace(self) -> str:
        """Namespace of the server."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Name of the server."""
        return str(self.raw["metadata"]["name"])

    @property
    def uid(self) -> str:
        """UID of the server."""
        return self.memory.uid

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The pods with what they said last."""
        return self.memory.pods.replicas(self.pods)
