"""Raw pods as the API server gives them, for tests."""

from __future__ import annotations

from typing import Any

from ghostfleet_operator.reconcile.api import Object


def raw_pod(name: str, address: str | None = "10.0.0.1", *, ready: bool = True, **meta: Any) -> Object:
    """A pod of the Deployment `s`."""
    owner = {"kind": "ReplicaSet", "name": "s-abc", "uid": "1", "controller": True}
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "labels": {"pod-template-hash": "abc"},
            "ownerReferences": [owner],
            **meta,
        },
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }
