"""What the pods of one server last said that they run, and the calls that ask and tell them.

A call to a pod has its own deadline and goes on behind the pass that began it. A pass waits a moment for pods that
usually answer, and not at all for those that did not the last time; whatever comes later wakes the server again.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.reconcile.observer import WorkObserver
from ghostfleet_operator.reconcile.pods import Pod
from ghostfleet_operator.reconcile.token import Tokens
from ghostfleet_operator.rollout import CONCURRENCY, Ack, Send, Target, encoded, fetch_one, observe_one, push_one
from ghostfleet_operator.workqueue import Backoff
from ghostfleet_simulator.document import Document

PATIENCE_SECONDS: Final = 1.0
"""Longest wait of a pass for the pods it has just asked or told something."""
_DOUBTFUL_CONCURRENCY: Final = 32

DueOf = Callable[[Pod], "Document | None"]
"""The document that a pod should run now; None where it is let alone."""


class Lanes:
    """Room for calls to pods, for all servers together; pods that did not answer last time share a lane of their own,
    so that however many of them there are, the others go on."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.good = asyncio.Semaphore(CONCURRENCY)
        self.doubtful = asyncio.Semaphore(_DOUBTFUL_CONCURRENCY)


@dataclass(frozen=True, slots=True)
class _Report:
    ack: Ack
    at: float
    failures: int = 0
    """Calls in a row after which the pod did not run what it should, or did not answer."""
    retry_at: float = 0.0
    tried: Document | None = None
    """The document that was last put to it."""

    @property
    def answered(self) -> bool:
        return self.ack.revision is not None


class Acknowledgements:
    """What the pods of one server last said; asks and pushes where that is too old or not what is wanted."""

    def __init__(
        self,
        *,
        lanes: Lanes,
        tokens: Tokens,
        clock: Callable[[], float],
        observer: WorkObserver,
        rng: random.Random,
        observe_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        self._lanes = lanes
        self.tokens = tokens
        """With which the pods are asked and told from now on."""
        self._clock = clock
        self._observer = observer
        self._rng = rng
        self._fresh_seconds = observe_seconds * 0.72
        self._backoff = Backoff(first=1.0, longest=max(1.0, observe_seconds))
        self._wake = wake
        self._reports: dict[tuple[object, ...], _Report] = {}
        self._calls: dict[tuple[object, ...], asyncio.Task[None]] = {}
        self._left: set[asyncio.Task[None]] = set()
        """Calls that nobody waits for any more."""

    async def refresh(self, pods: list[Pod], closely: Collection[str] = (), close_seconds: float = 5.0) -> None:
        """Ask the pods that did not answer, never or not lately; those named in `closely` oftener. Forget those that
        are gone."""
        present = {pod.incarnation for pod in pods}
        self._reports = {key: report for key, report in self._reports.items() if key in present}
        for key in self._calls.keys() - present:
            self._calls.pop(key).cancel()
        begun = []
        for pod in pods:
            seconds = min(close_seconds, self._fresh_seconds) if pod.name in closely else self._fresh_seconds
            if pod.reachable and pod.incarnation not in self._calls and self._is_to_be_asked(pod, seconds):
                begun.append((pod, self._begin(pod, functools.partial(observe_one, self._target(pod)), None)))
        await self._patience(begun)

    async def deliver(self, pods: list[Pod], due_of: DueOf) -> None:
        """Push to the pods that answered and do not report what they should run."""
        begun, bodies = [], dict[str, bytes]()
        for pod in pods:
            document, report = due_of(pod), self._reports.get(pod.incarnation)
            if document is None or report is None or not pod.reachable or pod.incarnation in self._calls:
                continue
            is_time = report.tried != document or not report.failures or self._clock() >= report.retry_at
            if report.answered and not report.ack.runs(document) and is_time:
                key = f"{document.revision} {document.hash}"
                bodies[key] = bodies.get(key) or encoded(document)
                call = functools.partial(push_one, self._target(pod), document, bodies[key])
                begun.append((pod, self._begin(pod, call, document)))
        await self._patience(begun)

    def next_due(self, pods: list[Pod], due_of: DueOf) -> float | None:
        """Seconds until a pod that lags is to be tried again; None where none lags."""
        times = []
        for pod in pods:
            document, report = due_of(pod), self._reports.get(pod.incarnation)
            if pod.reachable and pod.incarnation not in self._calls and document is not None:
                if report is None:
                    times.append(0.0)
                elif not report.ack.runs(document):
                    times.append(max(0.0, report.retry_at - self._clock()))
        return min(times, default=None)

    def replicas(self, pods: Iterable[Pod]) -> tuple[Replica, ...]:
        """The pods with what they reported, as plans, status and endpoints want them."""
        return tuple(self._replica(pod) for pod in pods)

    async def fetch(self, pod: Pod) -> Document | None:
        """The whole document that a pod runs; None where it cannot be had."""
        return await fetch_one(self._target(pod), self._lanes.send)

    def close(self) -> None:
        """Break off all calls."""
        for task in self._calls.values():
            task.cancel()
        self._calls.clear()

    def _replica(self, pod: Pod) -> Replica:
        report = self._reports.get(pod.incarnation)
        ack = report.ack if report else Ack(self._target(pod), None, None, None)
        refused = (ack.refusal, report.tried.hash) if report and report.tried and ack.refusal else None
        return Replica(
            name=pod.name,
            address=pod.address,
            ready=pod.ready,
            labels=pod.labels,
            revision=ack.revision,
            hash=ack.hash,
            reason=ack.reason,
            refused=refused,
            restarts=pod.restarts,
            requests=ack.requests,
            errors=ack.errors,
            silent=ack.silent,
            file=pod.file,
            ports=pod.ports,
            has_ranks=pod.has_ranks,
            trouble=pod.trouble,
        )

    def _target(self, pod: Pod) -> Target:
        return pod.target(self.tokens)

    def _is_to_be_asked(self, pod: Pod, fresh_seconds: float) -> bool:
        report, now = self._reports.get(pod.incarnation), self._clock()
        if report is None:
            return True
        return now - report.at >= fresh_seconds if report.answered else now >= report.retry_at

    def _begin(self, pod: Pod, call: Callable[[Send], Awaitable[Ack]], document: Document | None) -> asyncio.Task[None]:
        before = self._reports.get(pod.incarnation)
        lane = self._lanes.good if before is None or before.answered else self._lanes.doubtful

        async def work() -> None:
            try:
                async with lane:
                    began = self._clock()
                    ack = await call(self._lanes.send)
                if document:
                    self._observer.pushed(_result(ack), self._clock() - began)
                self._note(pod, ack, document)
            finally:
                if self._calls.get(pod.incarnation) is asyncio.current_task():
                    del self._calls[pod.incarnation]

        task = self._calls[pod.incarnation] = asyncio.create_task(work(), name=f"admin API of {pod.name}")
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self._left:
            self._left.discard(task)
            if not task.cancelled():
                self._wake()

    async def _patience(self, begun: list[tuple[Pod, asyncio.Task[None]]]) -> None:
        """Wait a moment for the calls to pods that usually answer."""
        awaited = [task for pod, task in begun if self._is_trusted(pod)]
        if awaited:
            await asyncio.wait(awaited, timeout=PATIENCE_SECONDS)
        self._left |= {task for _, task in begun if not task.done()}

    def _is_trusted(self, pod: Pod) -> bool:
        report = self._reports.get(pod.incarnation)
        return report is None or report.answered

    def _note(self, pod: Pod, ack: Ack, document: Document | None) -> None:
        before, now = self._reports.get(pod.incarnation), self._clock()
        if document is None and before and before.ack.reason and not ack.reason and _same(before.ack, ack):
            # It runs what it ran when a push failed; why that failed still holds, and when it is tried again.
            ack = replace(ack, reason=before.ack.reason, refusal=before.ack.refusal)
            self._reports[pod.incarnation] = replace(before, ack=ack, at=now)
            return
        failures = (before.failures if before else 0) + 1 if ack.reason else 0
        retry_at = now + self._backoff.delay(failures, self._rng) if failures else now
        self._reports[pod.incarnation] = _Report(
            ack, now, failures, retry_at, document or (before.tried if before else None)
        )


def _same(one: Ack, other: Ack) -> bool:
    return one.revision is not None and (one.revision, one.hash) == (other.revision, other.hash)


def _result(ack: Ack) -> str:
    """The outcome of a push as a metric's label: the first word of the reason."""
    word = (ack.reason or "acknowledged").partition(":")[0]
    return word if word in ("acknowledged", "timeout", "unreachable") else "refused"
