"""The operator's own metrics, `ghostfleet_operator_*`, in a registry of their own. No pod or server names in labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ghostfleet_operator.kube.client import KubeClient
from ghostfleet_operator.workqueue import WorkQueue

_PREFIX = "ghostfleet_operator_"


class OperatorMetrics:
    """Counts what the operator does; a `WorkObserver`."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=self._registry)

        self._passes = counter("reconcile_total", "Passes over an object, by how they ended.", "kind", "result")
        self._errors = counter("reconcile_errors_total", "Passes that failed, by why.", "kind", "reason")
        self._pushes = counter("profile_push_total", "Documents pushed to pods, by how it ended.", "result")
        self._drift = counter("drift_corrections_total", "Children put right after somebody changed them.", "kind")
        self._durations = Histogram(
            _PREFIX + "reconcile_duration_seconds",
            "Time of a pass.",
            ["kind"],
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self._registry,
        )
        self._syncs = Histogram(
            _PREFIX + "profile_sync_duration_seconds",
            "Time from wanting a document to the acknowledgement of the last Ready pod of the server.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 120, 300),
            registry=self._registry,
        )
        Gauge(_PREFIX + "build_info", "1, with the version.", ["version"], registry=self._registry).labels(version).set(
            1
        )
        for result in ("acknowledged", "refused", "timeout", "unreachable"):
            self._pushes.labels(result)

    def watch(
        self, queue: WorkQueue[Any], client: KubeClient, ready: Callable[[], bool], leader: Callable[[], bool]
    ) -> None:
        """Show the state of these as well, read at every scrape."""
        self._registry.register(_State(queue, client, ready, leader))

    def passed(self, kind: str, result: str, seconds: float) -> None:
        """A pass ended."""
        self._passes.labels(kind, result).inc()
        self._durations.labels(kind).observe(seconds)

    def failed(self, kind: str, reason: str) -> None:
        """A pass failed."""
        self._errors.labels(kind, reason).inc()

    def pushed(self, result: str, count: int) -> None:
        """Documents were pushed to `count` pods."""
        self._pushes.labels(result).inc(count)

    def synced(self, seconds: float) -> None:
        """Every Ready pod of a server came to run a new document."""
        self._syncs.observe(seconds)

    def corrected(self, kind: str) -> None:
        """A child that somebody else had changed or deleted was put right."""
        self._drift.labels(kind).inc()

    def render(self) -> bytes:
        """The exposition, text format 0.0.4."""
        return generate_latest(self._registry)


class _State:
    """Collects what others keep count of."""

    def __init__(
        self, queue: WorkQueue[Any], client: KubeClient, ready: Callable[[], bool], leader: Callable[[], bool]
    ) -> None:
        self._queue = queue
        self._client = client
        self._ready = ready
        self._leader = leader

    def collect(self) -> Iterator[Metric]:
        queue = self._queue
        yield GaugeMetricFamily(_PREFIX + "workqueue_depth", "Keys that are due and wait.", value=queue.depth)
        yield GaugeMetricFamily(_PREFIX + "workqueue_waiting", "Keys that wait, delayed ones too.", value=queue.waiting)
        yield GaugeMetricFamily(_PREFIX + "workqueue_in_flight", "Keys that are worked on.", value=queue.in_flight)
        yield CounterMetricFamily(_PREFIX + "workqueue_adds_total", "Keys added.", value=queue.adds)
        yield CounterMetricFamily(
            _PREFIX + "workqueue_retries_total", "Keys added after a failure.", value=queue.retries
        )
        yield GaugeMetricFamily(_PREFIX + "ready", "1 while it works or stands by.", value=int(self._ready()))
        yield GaugeMetricFamily(_PREFIX + "leader", "1 in the one that works.", value=int(self._leader()))
        requests = CounterMetricFamily(
            _PREFIX + "api_requests_total",
            "Requests to the API server; code 0 is no answer.",
            labels=["verb", "resource", "code"],
        )
        for (verb, resource, code), count in sorted(self._client.requests.items()):
            requests.add_metric([verb, resource, str(code)], count)
        yield requests
