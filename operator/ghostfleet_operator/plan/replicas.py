"""Replicas and the document they run, the same for pods and for processes on a laptop."""

from __future__ import annotations

from dataclasses import dataclass

from ghostfleet_operator.plan.waves import Truth
from ghostfleet_operator.resolve import Resolved
from ghostfleet_simulator.document import Document, restart_hash


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """What one server should be: the number of replicas, what they run, the hash of what restarts them."""

    namespace: str
    name: str
    uid: str
    replicas: int
    truth: Truth
    restart_hash: str
    resolved: Resolved

    @property
    def document(self) -> Document:
        """What a replica that starts runs."""
        return self.truth.stable

    @property
    def revision(self) -> int:
        """Revision of the document; a plan always gives one."""
        return self.document.revision or 0


def plan(resolved: Resolved, current: Document | None, floor: int = 0) -> ServerPlan:
    """The plan of a server whose replicas all get a new document at once; the same input gives the same plan.

    `current` is the document that was last given out, `floor` the highest revision seen anywhere else. A document keeps
    its revision while its hash stays and nothing is ahead of it; otherwise it gets the next number above both, so that
    every replica accepts it.
    """
    wanted = Document.of(resolved.config)
    last = (current.revision or 0) if current else 0
    keeps = current is not None and current.revision is not None and current.hash == wanted.hash and last >= floor
    revision = last if keeps else max(last, floor) + 1
    return plan_of(resolved, Truth(Document.of(resolved.config, revision)))


def plan_of(resolved: Resolved, truth: Truth) -> ServerPlan:
    """The plan of a server of whose documents it is known which replica runs which."""
    meta, spec = resolved.server.metadata, resolved.server.spec
    return ServerPlan(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        replicas=0 if spec.suspend else spec.replicas,
        truth=truth,
        restart_hash=restart_hash(resolved.config),
        resolved=resolved,
    )
