"""Why a pod is not Ready, in the pod's own words; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ghostfleet_operator.reconcile.api import Object

_BEGINNING: Final = ("ContainerCreating", "PodInitializing")


def trouble_of(pod: Object) -> tuple[str, str]:
    """What keeps a raw pod that is not Ready from it: a word for programs (`CrashLoopBackOff`, `ImagePullBackOff`,
    `Unschedulable`, `Evicted`, ...) and a text for people, which may be empty."""
    return next(_troubles(pod), ("NotReady", ""))


def _troubles(pod: Object) -> Iterator[tuple[str, str]]:
    status = pod.get("status") or {}
    conditions = {found.get("type"): found for found in status.get("conditions") or ()}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    if status.get("phase") == "Failed":
        yield status.get("reason") or "Failed", status.get("message") or _ended(containers)
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        yield scheduled.get("reason") or "Unschedulable", scheduled.get("message", "")
    waiting = [(state.get("waiting") or {}) for state in _states(containers)]
    for found in waiting:
        if found.get("reason") and found["reason"] not in _BEGINNING:
            yield found["reason"], found.get("message") or _ended(containers)
    for found in (state.get("terminated") or {} for state in _states(containers)):
        if found and found.get("exitCode"):
            yield found.get("reason") or "Error", _exit(found)
    for found in waiting:
        if found.get("reason"):
            yield found["reason"], found.get("message", "")
    ready = conditions.get("Ready", {})
    if ready.get("status") == "False":
        yield ready.get("reason") or "NotReady", "; ".join(filter(None, (ready.get("message"), _ended(containers))))
    if status.get("phase"):
        yield status["phase"], ""


def _states(containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [container.get("state") or {} for container in containers]


def _ended(containers: list[dict[str, Any]]) -> str:
    """How the last run of a container ended that was restarted."""
    for container in containers:
        last = (container.get("lastState") or {}).get("terminated") or (container.get("state") or {}).get("terminated")
        if last:
            return f"container {container.get('name')} ended, {_exit(last)}"
    return ""


def _exit(ended: dict[str, Any]) -> str:
    code = f"exit code {ended.get('exitCode')}"
    return ", ".join(filter(None, (ended.get("reason"), code, ended.get("message"))))
