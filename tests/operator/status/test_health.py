"""What Argo CD makes of a status is what kstatus makes of it: Flux and `kubectl wait` never disagree with it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from tests.lua import CHECKS, health
from tests.operator.status.test_status import OBSERVATIONS, seen

from ghostfleet_operator.status import server_status

HEALTH = {"Current": {"Healthy", "Suspended"}, "InProgress": {"Progressing"}, "Failed": {"Degraded"}}


def kstatus(obj: dict[str, Any]) -> str:
    """The rules of sigs.k8s.io/cli-utils, pkg/kstatus/status, for a kind that it does not know."""
    status = obj.get("status") or {}
    found = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    if "observedGeneration" in status and status["observedGeneration"] != obj["metadata"]["generation"]:
        return "InProgress"
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "Current" if found.get("Ready", "True") == "True" else "InProgress"


@given(OBSERVATIONS)
def test_any_status_is_as_healthy_to_argo_cd_as_to_kstatus(facts: dict[str, Any]) -> None:
    observed = seen(**facts)
    status = server_status(observed)
    for generation in (observed.generation, observed.generation + 1):
        obj = {"metadata": {"generation": generation}, "status": status}
        found, message = health("SimulatedModelServer", obj)
        assert found in HEALTH[kstatus(obj)]
        assert message or "" in {found["message"] for found in status["conditions"]}


def test_what_nobody_looked_at_yet_is_in_progress() -> None:
    """Here Argo CD is stricter: kstatus takes an object without any status for done."""
    for kind in ("SimulatedModelServer", "LatencyProfile"):
        for status in ({}, {"status": {}}):
            assert health(kind, {"metadata": {"generation": 1}, **status})[0] == "Progressing"


RECORDED = [
    (path.parent.name, case)
    for path in sorted(CHECKS.glob("*/health_test.yaml"))
    for case in yaml.safe_load(path.read_text())["tests"]
]


@pytest.mark.parametrize(("kind", "case"), RECORDED, ids=[f"{kind}-{case['inputPath']}" for kind, case in RECORDED])
def test_recorded_objects_have_the_health_that_argo_cds_own_test_files_say(kind: str, case: dict[str, Any]) -> None:
    """The files are in the form of Argo CD's resource_customizations, so that they can be taken over there."""
    obj = yaml.safe_load((CHECKS / kind / case["inputPath"]).read_text())
    assert obj["kind"] == kind
    wanted = case["healthStatus"]
    assert health(kind, obj) == (wanted["status"], wanted["message"])
    if kind == "SimulatedModelServer" and "status" in obj:
        assert wanted["status"] in HEALTH[kstatus(obj)]
