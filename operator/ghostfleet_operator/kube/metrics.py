"""The operator's own metrics, `ghostfleet_operator_*`, in a registry of their own. No pod or server names in labels."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ghostfleet_operator.kube.state import PREFIX, StateCollector

_PASS_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class OperatorMetrics:
    """Counts what the operator does; a `WorkObserver`."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=self._registry)

        self._passes = counter("reconcile_total", "Passes over an object, by how they ended.", "kind", "result")
        self._errors = counter("reconcile_errors_total", "Passes that failed, by why.", "kind", "reason")
        self._pushes = counter("profile_push_total", "Documents pushed to pods, by how it ended.", "result")
        self._rollbacks = counter("profile_rollbacks_total", "Documents taken back because their wave failed.")
        self._drift = counter("drift_corrections_total", "Children put right after somebody changed them.", "kind")
        self._durations = Histogram(
            PREFIX + "reconcile_duration_seconds",
            "Time of a pass.",
            ["kind"],
            buckets=_PASS_BUCKETS,
            registry=self._registry,
        )
        self._push_durations = Histogram(
            PREFIX + "profile_push_duration_seconds",
            "Time from pushing a document to a pod until it said what it runs, or did not.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=self._registry,
        )
        self._syncs = Histogram(
            PREFIX + "profile_sync_duration_seconds",
            "Time from wanting a document to the acknowledgement of the last Ready pod of the server.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 120, 300),
            registry=self._registry,
        )
        self._waits = Histogram(
            PREFIX + "workqueue_queue_duration_seconds",
            "Time from when a key was due until a worker took it.",
            buckets=(0.001, 0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300),
            registry=self._registry,
        )
        self._works = Histogram(
            PREFIX + "workqueue_work_duration_seconds",
            "Time a worker spent on a key.",
            buckets=_PASS_BUCKETS,
            registry=self._registry,
        )
        self._requests = Histogram(
            PREFIX + "api_request_duration_seconds",
            "Time from sending a request to the API server to the end of its answer.",
            ["verb", "resource"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        Gauge(PREFIX + "build_info", "1, with the version.", ["version"], registry=self._registry).labels(version).set(
            1
        )
        for result in ("acknowledged", "refused", "timeout", "unreachable"):
            self._pushes.labels(result)

    def watch(self, state: StateCollector) -> None:
        """Show the state of the operator as well, read at every scrape; and time the work of its parts."""
        self._registry.register(state)
        state.queue.waited = self._waits.observe
        state.client.answered = lambda verb, resource, seconds: self._requests.labels(verb, resource).observe(seconds)

    def passed(self, kind: str, result: str, seconds: float) -> None:
        """A pass ended."""
        self._passes.labels(kind, result).inc()
        self._durations.labels(kind).observe(seconds)
        self._works.observe(seconds)

    def failed(self, kind: str, reason: str) -> None:
        """A pass failed."""
        self._errors.labels(kind, reason).inc()

    def pushed(self, result: str, seconds: float) -> None:
        """A document was pushed to a pod."""
        self._pushes.labels(result).inc()
        self._push_durations.observe(seconds)

    def synced(self, seconds: float) -> None:
        """Every Ready pod of a server came to run a new document."""
        self._syncs.observe(seconds)

    def rolled_back(self) -> None:
        """A wave failed, and its document was taken back."""
        self._rollbacks.inc()

    def corrected(self, kind: str) -> None:
        """A child that somebody else had changed or deleted was put right."""
        self._drift.labels(kind).inc()

    def render(self) -> bytes:
        """The exposition, text format 0.0.4."""
        return generate_latest(self._registry)
