"""What a server's objects are called, by what they are known, and what each of them begins with; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ghostfleet_operator.kinds.meta import API_VERSION
from ghostfleet_operator.kinds.pod import RESERVED_PREFIX

FIELD_MANAGER: Final = "ghostfleet-operator"
"""Owner of the fields that the operator sets; the name under which it is seen everywhere."""
SERVER_LABEL: Final = f"{RESERVED_PREFIX}server"

Child = dict[str, Any]


class Owner(Protocol):
    """What children are named after and belong to; a plan is one."""

    @property
    def namespace(self) -> str:
        """Namespace of the server."""

    @property
    def name(self) -> str:
        """Name of the server."""

    @property
    def uid(self) -> str:
        """UID of the server."""


@dataclass(frozen=True, slots=True)
class ChildNames:
    """Names of a server's children; the Secret's carries the UID, so that it never meets a Secret of another owner."""

    config: str
    secret: str
    deployment: str
    service: str
    headless: str
    endpoints: str

    @classmethod
    def of(cls, name: str, uid: str) -> ChildNames:
        """The names for a server; each is a DNS label, because a server's name has at most 48 characters."""
        token = f"{name}-admin-{uid.replace('-', '')[:8]}".rstrip("-")
        return cls(f"{name}-config", token, name, name, f"{name}-headless", f"{name}-endpoints")


def is_ours(child: Mapping[str, Any], uid: str) -> bool:
    """Whether an existing object is controlled by the server with this UID; any other one is never touched."""
    owners = child.get("metadata", {}).get("ownerReferences") or []
    return any(owner.get("controller") and owner.get("uid") == uid for owner in owners)


def selector(name: str) -> str:
    """The label selector of a server's pods, as text."""
    return f"{SERVER_LABEL}={name}"


def labels_of(name: str) -> dict[str, str]:
    """The labels of all that belongs to a server."""
    return {
        "app.kubernetes.io/name": "ghostfleet-simulator",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/part-of": "ghostfleet",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        SERVER_LABEL: name,
    }


def child(server: Owner, api_version: str, kind: str, name: str, annotations: dict[str, str] | None = None) -> Child:
    """What every child of a server begins with: names, labels and the owner."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": "SimulatedModelServer",
        "name": server.name,
        "uid": server.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": server.namespace,
        "labels": labels_of(server.name),
        "ownerReferences": [owner],
    }
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
