"""The pods of one server and what they last said that they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.reconcile.api import Object
from ghostfleet_operator.reconcile.mapping import is_ready
from ghostfleet_operator.reconcile.observer import WorkObserver
from ghostfleet_operator.resolve import ADMIN_PORT
from ghostfleet_operator.rollout import Ack, Target, observe, push
from ghostfleet_simulator.document import Document

_HASH_LABEL: Final = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Pod:
    """The part of a pod that a pass needs; `incarnation` changes when its process may have started anew."""

    name: str
    address: str | None
    ready: bool
    labels: Mapping[str, str]
    incarnation: tuple[object, ...]

    @classmethod
    def of(cls, raw: Object) -> Pod:
        """The facts in a raw pod."""
        meta, status = raw["metadata"], raw.get("status") or {}
        restarts = sum(c.get("restartCount", 0) for c in status.get("containerStatuses") or ())
        address = status.get("podIP") or None
        return cls(meta["name"], address, is_ready(raw), meta.get("labels") or {}, (meta["uid"], restarts, address))

    @property
    def reachable(self) -> bool:
        """Whether it should answer: Ready, with an address."""
        return self.ready and self.address is not None

    def target(self, token: str) -> Target:
        """Its admin API."""
        host = f"[{self.address}]" if self.address and ":" in self.address else self.address
        return Target(self.name, f"http://{host}:{ADMIN_PORT}", token)


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


@dataclass(frozen=True, slots=True)
class _Report:
    ack: Ack
    at: float


class Acknowledgements:
    """What the pods of one server last said; asks and pushes where that is too old or not what is wanted."""

    def __init__(
        self,
        *,
        client: httpx.AsyncClient,
        token: str,
        clock: Callable[[], float],
        observer: WorkObserver,
        fresh_seconds: float,
    ) -> None:
        self._client = client
        self._token = token
        self._clock = clock
        self._observer = observer
        self._fresh_seconds = fresh_seconds
        self._reports: dict[tuple[object, ...], _Report] = {}

    def highest_revision(self, pods: Iterable[Pod]) -> int:
        """The highest revision that a pod reported; 0 where none did."""
        known = [self._reports[pod.incarnation].ack.revision for pod in pods if pod.incarnation in self._reports]
        return max((revision for revision in known if revision is not None), default=0)

    async def refresh(self, pods: list[Pod]) -> None:
        """Ask the pods that did not answer, never or not lately; forget those that are gone."""
        present = {pod.incarnation for pod in pods}
        self._reports = {key: report for key, report in self._reports.items() if key in present}
        stale = [pod for pod in pods if pod.reachable and not self._is_fresh(pod)]
        self._note(stale, await observe([pod.target(self._token) for pod in stale], client=self._client))

    async def deliver(self, pods: list[Pod], document: Document) -> None:
        """Push a document to the pods that answered `refresh` and do not report it."""
        behind = [pod for pod in pods if pod.reachable and self._answered(pod) and not self.runs(pod, document)]
        if not behind:
            return
        acks = await push([pod.target(self._token) for pod in behind], document, client=self._client)
        self._note(behind, acks)
        results = [_result(ack) for ack in acks]
        for result in sorted(set(results)):
            self._observer.pushed(result, results.count(result))

    def runs(self, pod: Pod, document: Document) -> bool:
        """Whether the pod reported exactly this document."""
        report = self._reports.get(pod.incarnation)
        return report is not None and report.ack.runs(document)

    def refused_same_revision(self, pods: Iterable[Pod], document: Document) -> bool:
        """Whether a pod holds another document under this document's revision; only a greater one will replace it."""
        reports = [self._reports[pod.incarnation] for pod in pods if pod.incarnation in self._reports]
        return any(
            r.ack.reason is not None and r.ack.revision == document.revision and r.ack.hash != document.hash
            for r in reports
        )

    def replicas(self, pods: Iterable[Pod]) -> tuple[Replica, ...]:
        """The pods with what they reported, as status and endpoints want them."""
        made = []
        for pod in pods:
            report = self._reports.get(pod.incarnation)
            ack = report.ack if report else None
            made.append(
                Replica(
                    name=pod.name,
                    address=pod.address,
                    ready=pod.ready,
                    labels=pod.labels,
                    revision=ack.revision if ack else None,
                    hash=ack.hash if ack else None,
                    reason=ack.reason if ack else None,
                )
            )
        return tuple(made)

    def _answered(self, pod: Pod) -> bool:
        report = self._reports.get(pod.incarnation)
        return report is not None and report.ack.revision is not None

    def _is_fresh(self, pod: Pod) -> bool:
        return self._answered(pod) and self._clock() - self._reports[pod.incarnation].at < self._fresh_seconds

    def _note(self, pods: list[Pod], acks: list[Ack]) -> None:
        now = self._clock()
        self._reports |= {pod.incarnation: _Report(ack, now) for pod, ack in zip(pods, acks, strict=True)}


def _result(ack: Ack) -> str:
    """The outcome of a push as a metric's label: the first word of the reason."""
    word = (ack.reason or "acknowledged").partition(":")[0]
    return word if word in ("acknowledged", "timeout", "unreachable") else "refused"
