"""Watches that go silent, and what the operator tells about itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.apiserver.cluster import Cluster, Pods, eventually, profile, server
from tests.apiserver.conftest import StartOperator
from tests.apiserver.control_plane import ControlPlane
from tests.apiserver.relay import relay

from ghostfleet_operator.reconcile.api import DEPLOYMENT

DOCS = Path(__file__).parents[2] / "docs" / "operator.md"
PREFIX = "ghostfleet_operator_"


def test_watches_whose_connections_were_forgotten_are_begun_anew(
    plane: ControlPlane, cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    """Nothing closes the connections, so only their silence tells; afterwards changes are seen again."""
    address = httpx.URL(plane.url)
    with relay((address.host, address.port or 443)) as between:
        config = yaml.safe_load(plane.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{between.port}"
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        arguments = ("--kubeconfig", str(kubeconfig), "--namespace", namespace, "--watch-silent-seconds", "4")
        with start_operator(*arguments) as operator:
            cluster.create(server(namespace, "before"))
            eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "before"))
            watches = f'{PREFIX}watch_operations_total{{resource="simulatedmodelservers"'
            eventually(lambda: operator.metric(watches) or None)
            between.forget()
            cluster.create(server(namespace, "after"))
            eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "after"), within=60)
            assert operator.process.poll() is None, "by the same process"
            assert operator.metric(watches) >= 2
            assert operator.metric(f'{PREFIX}list_operations_total{{resource="simulatedmodelservers"') >= 1


def test_every_metric_is_there_documented_and_true(
    plane: ControlPlane, cluster: Cluster, start_operator: StartOperator, namespace: str
) -> None:
    """The names of the documentation are those of a scrape, and the values fit what happened."""
    with start_operator("--namespace", namespace, "--observe-seconds", "1", "--leader-elect", *lease(namespace)) as it:
        cluster.create(profile(namespace, "shared"))
        cluster.create(server(namespace, "one", profile=None, profileRef={"name": "shared"}))
        eventually(lambda: cluster.status(namespace, "one")["observedGeneration"])
        Pods(cluster, namespace, "one").add("a", "127.9.9.8")
        cluster.merge(DEPLOYMENT, namespace, "one", {"spec": {"replicas": 9}})
        eventually(lambda: it.metric(f'{PREFIX}drift_corrections_total{{kind="Deployment"}}') or None, within=40)
        eventually(lambda: it.metric(f"{PREFIX}profile_lagging_pods") or None, within=40)
        told: dict[str, Metric] = {}

        def look() -> bool:
            """Values that belong together; of what is under way at the moment some are not told yet."""
            told.update({family.name: family for family in text_string_to_metric_families(it.metrics())})
            true(told, namespace)
            return True

        eventually(look, within=60)

    ours = {name for name in told if name.startswith(PREFIX)}
    table = DOCS.read_text().split("## Metrics and probes")[1].split("\n## ")[0]
    documented = {name.removesuffix("_total") for name in re.findall(rf"`({PREFIX}\w+)`", table)}
    assert ours == documented
    assert not [s for f in told.values() for s in f.samples if "pod" in s.labels]


def true(families: Mapping[str, Metric], namespace: str) -> None:
    """What a scrape tells fits what the test did."""

    def value(series: str, /, **labels: str) -> float:
        samples = [s for f in families.values() for s in f.samples if s.name == PREFIX + series]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    assert value("ready") == value("leader") == 1
    for name in ("reconcile_duration_seconds_count", "workqueue_work_duration_seconds_count"):
        assert value(name) == value("reconcile_total") >= 2
    assert value("workqueue_queue_duration_seconds_count") >= value("reconcile_total")
    assert value("workqueue_adds_total") >= value("reconcile_total")
    assert value("api_requests_total", verb="PATCH", resource="deployments", code="201") == 1
    assert value("api_requests_total") == value("api_request_duration_seconds_count")
    assert value("status_updates_total", resource="simulatedmodelservers", result="written") >= 1
    assert value("status_updates_total", resource="latencyprofiles", result="written") >= 1
    assert value("profile_push_duration_seconds_count") == value("profile_push_total")
    for resource in ("pods", "configmaps", "services", "deployments", "simulatedmodelservers", "latencyprofiles"):
        assert value("list_operations_total", resource=resource) >= 1
        assert value("watch_operations_total", resource=resource) >= 1
        assert value("watch_operations_failed_total", resource=resource) == 0
        assert 0 <= value("watch_last_event_age_seconds", resource=resource) < 60
    one = {"namespace": namespace, "name": "one"}
    assert value("server_info", **one, model="org/model", profile="shared") == 1
    assert value("server_condition", **one, type="ProfileResolved", status="True") == 1
    assert value("server_condition", **one, type="ProfileSynced", status="False") == 1


def lease(namespace: str) -> tuple[str, str]:
    return "--leader-elect-resource-namespace", namespace
