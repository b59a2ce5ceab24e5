"""The chart's Grafana dashboard: every panel asks for metrics that exist, in PromQL that Prometheus takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, Render, of_kind, one
from .test_alerts import promtool

OF_PROCESSES = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


@pytest.fixture(scope="module")
def dashboard(render: Render) -> dict[str, Any]:
    """What Grafana reads."""
    values = {"enabled": True, "annotations": {"grafana_folder": "Lab"}}
    made = one(render(metrics={"dashboard": values}), "ConfigMap")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"grafana_folder": "Lab"}
    found: dict[str, Any] = json.loads(made["data"]["ghostfleet.json"])
    return found


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_it_is_made_on_demand_only(render: Render) -> None:
    assert not of_kind(render(), "ConfigMap")


def test_panels_lie_side_by_side_and_say_what_they_show(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) > 10
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_every_metric_exists(dashboard: dict[str, Any]) -> None:
    """The pages of metrics are themselves compared with what operator and server answer."""
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("operator.md", "metrics.md"))
    known = set(re.findall(r"^\| `([\w:]+)` \|", pages, re.MULTILINE)) | OF_PROCESSES
    for query in queries(dashboard):
        names = re.findall(r"\b(?:vllm:|ghostfleet_|process_)\w+", query)
        assert names
        assert {name.removesuffix("_bucket") for name in names} <= known, query


def test_prometheus_takes_every_query(dashboard: dict[str, Any], tmp_path: Path) -> None:
    rules = [
        {"record": f"query{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries(dashboard))
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool(tmp_path, "check", "rules", "rules.yaml")
