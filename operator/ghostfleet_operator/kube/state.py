"""Metrics that are read at a scrape: what the operator's parts keep count of, and what its servers are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ghostfleet_operator.kube.client import KubeClient
from ghostfleet_operator.kube.streams import Streams
from ghostfleet_operator.reconcile.api import SERVER, Object
from ghostfleet_operator.reconcile.mapping import profile_of
from ghostfleet_operator.reconcile.store import Store
from ghostfleet_operator.workqueue import WorkQueue

PREFIX: Final = "ghostfleet_operator_"
_STATUS: Final = "/status"


@dataclass(frozen=True, slots=True)
class StateCollector(Collector):
    """Collects what others know. No pod is named in a label: pods come and go, and series stay."""

    queue: WorkQueue[Any]
    client: KubeClient
    streams: Streams
    store: Store
    passes: Callable[[], list[float]]
    """Seconds that each pass under way has taken so far."""
    ready: Callable[[], bool]
    leader: Callable[[], bool]

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        yield _gauge("ready", "1 while it works or stands by.", int(self.ready()))
        yield _gauge("leader", "1 in the one that works.", int(self.leader()))
        yield from self._queue()
        yield from self._requests()
        yield from self._watches()
        yield from self._servers()

    def _queue(self) -> Iterator[Metric]:
        queue, passes = self.queue, self.passes()
        yield _gauge("workqueue_depth", "Keys that are due and wait.", queue.depth)
        yield _gauge("workqueue_waiting", "Keys that wait, delayed ones too.", queue.waiting)
        yield _gauge("workqueue_in_flight", "Keys that are worked on.", queue.in_flight)
        yield _counter("workqueue_adds_total", "Keys added.", (), {(): queue.adds})
        yield _counter("workqueue_retries_total", "Keys added after a failure.", (), {(): queue.retries})
        yield _gauge("workqueue_unfinished_work_seconds", "Time spent so far on keys under way.", sum(passes))
        text = "Time spent so far on the key that is longest under way."
        yield _gauge("workqueue_longest_running_processor_seconds", text, max(passes, default=0.0))

    def _requests(self) -> Iterator[Metric]:
        requests: Counter[tuple[str, ...]] = Counter()
        written: Counter[tuple[str, ...]] = Counter()
        for (verb, resource, code), count in self.client.requests.items():
            requests[verb, resource, str(code)] += count
            if resource.endswith(_STATUS):
                done = HTTPStatus.OK <= code < HTTPStatus.BAD_REQUEST
                written[resource.removesuffix(_STATUS), "written" if done else "failed"] += count
        text = "Requests to the API server, those of watches and of the Lease apart; code 0 is no answer."
        yield _counter("api_requests_total", text, ("verb", "resource", "code"), requests)
        text = "Writes of a status, by how they ended."
        yield _counter("status_updates_total", text, ("resource", "result"), written)

    def _watches(self) -> Iterator[Metric]:
        for operation in ("list", "watch"):
            for name, counts in (("", self.streams.operations), ("_failed", self.streams.failures)):
                text = f"Requests of the watches to {operation}" + (" that failed." if name else ".")
                found = Counter[tuple[str, ...]]()
                for (kind, resource), count in counts.items():
                    found[(resource,)] += count if kind == operation else 0
                yield _counter(f"{operation}_operations{name}_total", text, ("resource",), found)
        text = "Time since anything came by a watch, bookmarks included."
        ages = GaugeMetricFamily(PREFIX + "watch_last_event_age_seconds", text, labels=["resource"])
        for resource, age in sorted(self.streams.ages().items()):
            ages.add_metric([resource], age)
        yield ages

    def _servers(self) -> Iterator[Metric]:
        labels = ["namespace", "name", "model", "profile"]
        info = GaugeMetricFamily(PREFIX + "server_info", "1 for each server.", labels=labels)
        labels = ["namespace", "name", "type", "status"]
        text = "1 for each condition of a server, with the status it has."
        conditions = GaugeMetricFamily(PREFIX + "server_condition", text, labels=labels)
        lagging = 0
        for server in self.store.all(SERVER):
            meta, status, profile = server["metadata"], server.get("status") or {}, profile_of(server)
            place = [meta["namespace"], meta["name"]]
            info.add_metric([*place, _model(server), profile.name if profile else ""], 1)
            for condition in status.get("conditions") or ():
                conditions.add_metric([*place, condition["type"], condition["status"]], 1)
            lagging += (status.get("profile") or {}).get("laggingReplicas") or 0
        yield info
        yield conditions
        yield _gauge("profile_lagging_pods", "Ready pods that do not run the document they should.", lagging)


def _model(server: Object) -> str:
    model = (server.get("spec") or {}).get("model")
    return str(model.get("name") or "") if isinstance(model, dict) else ""


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    made = CounterMetricFamily(PREFIX + name, text, labels=list(labels))
    for key, value in sorted(values.items()):
        made.add_metric(list(key), value)
    return made
