"""Why a pod is not Ready, as kubelet, scheduler and kubectl's users know it."""

from __future__ import annotations

from typing import Any

import pytest

from ghostfleet_operator.reconcile.trouble import trouble_of


def waiting(reason: str, message: str | None = None, **more: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    return {"phase": "Pending", "containerStatuses": [{"name": "server", "state": state, **more}]}


ENDED = {"lastState": {"terminated": {"reason": "Error", "exitCode": 2}}}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (waiting("ImagePullBackOff", "Back-off pulling image"), ("ImagePullBackOff", "Back-off pulling image")),
        (waiting("CrashLoopBackOff", **ENDED), ("CrashLoopBackOff", "container server ended, Error, exit code 2")),
        (waiting("ContainerCreating"), ("ContainerCreating", "")),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
                ],
            },
            ("Unschedulable", "0/3 nodes"),
        ),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, ("Evicted", "low on memory")),
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    {"name": "server", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
                ],
            },
            ("OOMKilled", "OOMKilled, exit code 137"),
        ),
        (
            {
                "phase": "Running",
                "conditions": [
                    {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "unready: [server]"}
                ],
                "containerStatuses": [{"name": "server", "state": {"running": {}}}],
            },
            ("ContainersNotReady", "unready: [server]"),
        ),
        ({"phase": "Pending"}, ("Pending", "")),
        ({}, ("NotReady", "")),
    ],
)
def test_a_pod_that_is_not_ready_says_why(status: dict[str, Any], expected: tuple[str, str]) -> None:
    assert trouble_of({"metadata": {"name": "p"}, "status": status}) == expected
