"""The chart's alerts: promtool takes them, each fires on what it is for and is explained."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, Render, one

PREFIX = "ghostfleet_operator_"
OPERATOR = '{instance="10.0.0.1:8080", job="gf-ghostfleet-operator-metrics"}'

# What Prometheus scrapes, minute by minute, until the alert must be there.
CASES = {
    "GhostfleetOperatorNotLeading": {f"{PREFIX}leader{OPERATOR}": "0x30"},
    "GhostfleetOperatorNotReady": {f"{PREFIX}ready{OPERATOR}": "0x30"},
    "GhostfleetOperatorRestarting": {
        f"process_start_time_seconds{OPERATOR}": "1 1 2 2 3 3 4 4 5 5x20",
        f"{PREFIX}build_info{OPERATOR}": "1x30",
    },
    "GhostfleetReconcileErrors": {
        f'{PREFIX}reconcile_total{{result="failed"}}': "0+3x30",
        f'{PREFIX}reconcile_total{{result="done"}}': "0+9x30",
    },
    "GhostfleetStatusUpdatesFailing": {
        f'{PREFIX}status_updates_total{{resource="latencyprofiles", result="failed"}}': "0+3x30",
        f'{PREFIX}status_updates_total{{resource="latencyprofiles", result="written"}}': "0+9x30",
    },
    "GhostfleetWatchesFailing": {
        f'{PREFIX}list_operations_failed_total{{resource="pods"}}': "0x30",
        f'{PREFIX}watch_operations_failed_total{{resource="pods"}}': "0+1x30",
    },
    "GhostfleetWatchSilent": {f'{PREFIX}watch_last_event_age_seconds{{resource="pods"}}': "0+60x30"},
    "GhostfleetQueueSlow": {
        f'{PREFIX}workqueue_queue_duration_seconds_bucket{{le="10"}}': "0+1x30",
        f'{PREFIX}workqueue_queue_duration_seconds_bucket{{le="60"}}': "0+5x30",
        f'{PREFIX}workqueue_queue_duration_seconds_bucket{{le="+Inf"}}': "0+5x30",
    },
    "GhostfleetProfileLagging": {f"{PREFIX}profile_lagging_pods{OPERATOR}": "2x30"},
    "GhostfleetServerStalled": {
        f'{PREFIX}server_condition{{namespace="lab", name="one", type="Stalled", status="True"}}': "1x30"
    },
}
CALM = {
    f"{PREFIX}leader{OPERATOR}": "1x30",
    f'{PREFIX}leader{{instance="10.0.0.2:8080"}}': "0x30",
    f"{PREFIX}ready{OPERATOR}": "1x30",
    f"{PREFIX}build_info{OPERATOR}": "1x30",
    f"process_start_time_seconds{OPERATOR}": "1x30",
    f'{PREFIX}reconcile_total{{result="failed"}}': "0+1x30",
    f'{PREFIX}reconcile_total{{result="done"}}': "0+99x30",
    f'{PREFIX}status_updates_total{{resource="latencyprofiles", result="failed"}}': "0+1x30",
    f'{PREFIX}status_updates_total{{resource="latencyprofiles", result="written"}}': "0+99x30",
    f'{PREFIX}list_operations_failed_total{{resource="pods"}}': "1x30",
    f'{PREFIX}watch_operations_failed_total{{resource="pods"}}': "1x30",
    f'{PREFIX}watch_last_event_age_seconds{{resource="pods"}}': "0 60 0 60 0 60 0 60 0 60 0 60 0 60 0 60x10",
    f'{PREFIX}workqueue_queue_duration_seconds_bucket{{le="10"}}': "0+5x30",
    f'{PREFIX}workqueue_queue_duration_seconds_bucket{{le="+Inf"}}': "0+5x30",
    f"{PREFIX}profile_lagging_pods{OPERATOR}": "0 9 0 9 0 9 0 9 0 9 0 9 0x20",
    f'{PREFIX}server_condition{{namespace="lab", name="one", type="Ready", status="True"}}': "1x30",
}


@pytest.fixture(scope="module")
def rules(render: Render) -> list[dict[str, Any]]:
    """What the chart renders, as Prometheus reads it."""
    rule = {"enabled": True, "labels": {"release": "prom"}, "runbook": "https://runbooks.example/alerts"}
    made = one(render(metrics={"prometheusRule": rule}), "PrometheusRule")
    assert made["metadata"]["labels"]["release"] == "prom"
    groups: list[dict[str, Any]] = made["spec"]["groups"]
    return groups


def promtool(folder: Path, *arguments: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail("promtool must be there in CI", pytrace=False)
        pytest.skip("no promtool; Debian has it in the package prometheus")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_on_what_it_is_for_and_none_in_calm(rules: list[dict[str, Any]], tmp_path: Path) -> None:
    """By promtool's own unit tests of rules, over half an hour."""
    assert {rule["alert"] for group in rules for rule in group["rules"]} == set(CASES)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
    # An alert is named `ALERTS` once it fires; what labels it has differs.
    tests = [case(CALM, dict.fromkeys(CASES, 0))] + [case(series, {alert: 1}) for alert, series in CASES.items()]
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content))
    promtool(tmp_path, "check", "rules", "rules.yaml")
    promtool(tmp_path, "test", "rules", "tests.yaml")


def case(series: dict[str, str], wanted: dict[str, int]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                "eval_time": "25m",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
            for alert, count in wanted.items()
        ],
    }


def test_every_alert_has_a_page_and_is_about_metrics_that_exist(rules: list[dict[str, Any]]) -> None:
    pages = (ROOT / "docs" / "alerts.md").read_text()
    metrics = (ROOT / "docs" / "operator.md").read_text()
    assert re.findall(r"^## (\w+)$", pages, re.MULTILINE) == list(CASES)
    for rule in rules[0]["rules"]:
        assert rule["annotations"]["runbook_url"] == f"https://runbooks.example/alerts#{rule['alert'].lower()}"
        names = re.findall(rf"{PREFIX}\w+", rule["expr"])
        assert names
        for name in names:
            assert f"`{name.removesuffix('_bucket')}`" in metrics
