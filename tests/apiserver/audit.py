"""What service accounts asked of an API server, by its own audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.apiserver.control_plane import ControlPlane

_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata, userGroups: ["system:serviceaccounts"]}]
"""


def flags(folder: Path) -> tuple[str, ...]:
    """Flags that make an API server write down every request of a service account before it answers."""
    policy = folder / "policy.yaml"
    policy.write_text(_POLICY)
    return (
        f"--audit-policy-file={policy}",
        f"--audit-log-path={folder / 'audit.log'}",
        "--audit-log-mode=blocking-strict",
    )


def requests(plane: ControlPlane, user: str) -> list[dict[str, Any]]:
    """What a user asked of the API server, without discovery."""
    lines = (plane.folder / "audit.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if user in line]
    return [event for event in events if event["user"]["username"] == user and "objectRef" in event]


def writes(plane: ControlPlane, user: str) -> list[dict[str, Any]]:
    """What a user wrote or tried to."""
    return [event for event in requests(plane, user) if event["verb"] not in ("get", "list", "watch")]
