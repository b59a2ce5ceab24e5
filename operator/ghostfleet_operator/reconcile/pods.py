"""The pods of one server: which they are, and the facts about each that a pass needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ghostfleet_operator.plan.documents import FILE_ANNOTATION
from ghostfleet_operator.plan.observed import DOCUMENT_FILE
from ghostfleet_operator.plan.ports import ACTIVE_PORTS_ANNOTATION, active_ports
from ghostfleet_operator.reconcile.api import Object
from ghostfleet_operator.reconcile.mapping import is_ready
from ghostfleet_operator.reconcile.token import Tokens
from ghostfleet_operator.reconcile.trouble import trouble_of
from ghostfleet_operator.resolve import ADMIN_PORT, PORT
from ghostfleet_operator.rollout import Target
from ghostfleet_simulator.bearer import bound

_HASH_LABEL: Final = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a pod that a pass needs; `incarnation` changes when its process may have started anew."""

    name: str
    address: str | None
    ready: bool
    labels: Mapping[str, str]
    incarnation: tuple[object, ...]
    restarts: int = 0
    file: str = DOCUMENT_FILE
    trouble: tuple[str, str] | None = None
    ports: tuple[int, ...] = (PORT,)
    has_ranks: bool = False

    @classmethod
    def of(cls, raw: Object) -> Pod:
        """The facts in a raw pod."""
        meta, status = raw["metadata"], raw.get("status") or {}
        restarts = sum(c.get("restartCount", 0) for c in status.get("containerStatuses") or ())
        address = status.get("podIP") or None
        notes = meta.get("annotations") or {}
        ready = is_ready(raw)
        return cls(
            name=meta["name"],
            address=address,
            ready=ready,
            labels=meta.get("labels") or {},
            incarnation=(meta["uid"], restarts, address),
            restarts=restarts,
            file=notes.get(FILE_ANNOTATION, DOCUMENT_FILE),
            trouble=None if ready else trouble_of(raw),
            ports=active_ports(notes),
            has_ranks=ACTIVE_PORTS_ANNOTATION in notes,
        )

    @property
    def reachable(self) -> bool:
        """Whether it should answer: Ready, with an address."""
        return self.ready and self.address is not None

    def target(self, tokens: Tokens) -> Target:
        """Its admin API, with tokens that only this pod takes: the address may be another pod's by now."""
        host = f"[{self.address}]" if self.address and ":" in self.address else self.address
        own, *others = [bound(t.encode(), self.name, self.address or "") for t in (*tokens.accepted, *tokens.outgoing)]
        return Target(self.name, f"http://{host}:{ADMIN_PORT}", own, tuple(others))


def owned_pods(raw: Iterable[Object], deployment: str) -> list[Pod]:
    """Pods that a Deployment made and nobody is deleting.

    Pods belong to a ReplicaSet, whose name is the Deployment's with the template hash that its pods carry as a label;
    so ownership is known without the right to read ReplicaSets. A pod that only wears the labels is not one.
    """
    return [Pod.of(pod) for pod in raw if _is_owned(pod, deployment) and not pod["metadata"].get("deletionTimestamp")]


def _is_owned(pod: Object, deployment: str) -> bool:
    template = (pod["metadata"].get("labels") or {}).get(_HASH_LABEL)
    owners = pod["metadata"].get("ownerReferences") or ()
    return template is not None and any(
        owner.get("controller")
        and owner.get("kind") == "ReplicaSet"
        and owner.get("name") == f"{deployment}-{template}"
        for owner in owners
    )
