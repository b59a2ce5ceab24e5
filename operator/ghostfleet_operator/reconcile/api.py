"""What a reconciler needs from Kubernetes, and how its errors are told apart; `kube` implements it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from ghostfleet_operator.kinds import GROUP, VERSION

Object = dict[str, Any]
"""An object of the API as JSON."""

Objects = list[Object]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of the API: where its objects are found."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    def __hash__(self) -> int:
        # Every look into the store hashes a kind; those of one name are told apart by `==`.
        return hash(self.name)

    @property
    def api_version(self) -> str:
        """`apps/v1`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


SERVER: Final = Kind(GROUP, VERSION, "simulatedmodelservers", "SimulatedModelServer")
PROFILE: Final = Kind(GROUP, VERSION, "latencyprofiles", "LatencyProfile")
CLUSTER_PROFILE: Final = Kind(GROUP, VERSION, "clusterlatencyprofiles", "ClusterLatencyProfile", namespaced=False)
"""Used only where the operator is told to; its objects have "" for a namespace in keys."""
DEPLOYMENT: Final = Kind("apps", "v1", "deployments", "Deployment")
SERVICE: Final = Kind("", "v1", "services", "Service")
CONFIG_MAP: Final = Kind("", "v1", "configmaps", "ConfigMap")
SECRET: Final = Kind("", "v1", "secrets", "Secret")
POD: Final = Kind("", "v1", "pods", "Pod")
INFERENCE_POOL: Final = Kind("inference.networking.k8s.io", "v1", "inferencepools", "InferencePool")
"""Not of Kubernetes itself: there only where the Gateway API Inference Extension is installed."""
EVENT: Final = Kind("", "v1", "events", "Event")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")

OWN: Final = (SERVER, PROFILE, CLUSTER_PROFILE)
PROFILES: Final = {kind.name: kind for kind in (PROFILE, CLUSTER_PROFILE)}
CHILDREN: Final = (DEPLOYMENT, SERVICE, CONFIG_MAP)
"""Kinds of children that are watched. The token's Secret is only ever written: the operator may not read Secrets."""

_BY_TYPE: Final = {(k.api_version, k.name): k for k in (*OWN, *CHILDREN, INFERENCE_POOL, SECRET, POD, EVENT, LEASE)}


def namespace_of(obj: Object) -> str:
    """The namespace of an object; "" where its kind has none."""
    return str(obj["metadata"].get("namespace", ""))


def kind_of(obj: Object) -> Kind:
    """The kind of an object, by its `apiVersion` and `kind`."""
    return _BY_TYPE[obj["apiVersion"], obj["kind"]]


def essential(kind: Kind, obj: Object) -> Object:
    """An object without what nothing here reads: field ownership, the larger half of many, and the spec of pods."""
    kept = {key: value for key, value in obj.items() if kind != POD or key != "spec"}
    return {**kept, "metadata": {key: value for key, value in obj["metadata"].items() if key != "managedFields"}}


class KubeError(Exception):
    """The API could not be asked or said no; `status` is 0 where there was no answer. Worth trying again later."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class Conflict(KubeError):
    """The object changed meanwhile (409): read it again, then decide again."""


class Invalid(KubeError):
    """The API refuses the object for what it says (400, 403, 422); the same again gets the same answer."""


class NotLeading(KubeError):
    """This process may not write: another operator may hold the lease by now. It is about to end."""


class Retry(KubeError):
    """The API wants to be asked again in `after` seconds (429, 503 with Retry-After)."""

    def __init__(self, message: str, status: int, after: float) -> None:
        self.after = after
        super().__init__(message, status)


class KubeApi(Protocol):
    """Seven calls. Every one raises `KubeError` or one of its kinds; none retries by itself."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None."""

    async def list(self, kind: Kind, namespace: str | None, labels: str = "") -> Objects:
        """All objects of a kind in a namespace (None: in all of them) that a label selector matches, what is
        `essential` of them."""

    async def apply(self, obj: Object) -> Object:
        """Server-side apply with force; the live object. With `metadata.resourceVersion` only over that version."""

    async def apply_status(self, obj: Object) -> Object:
        """Server-side apply of the status, under a field manager of its own; the live object."""

    async def apply_scale(self, obj: Object) -> Object:
        """Server-side apply of the few fields of a child that may change while the others must not; the live object."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete the object if it still is the one with `uid`; one that is gone is fine."""

    async def create_event(self, event: Object) -> None:
        """Write a core/v1 Event, over an earlier one of the same name."""


@dataclass(frozen=True, slots=True)
class Key:
    """What the work queue holds: one of our objects, whether or not it still exists."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.name} {self.namespace}/{self.name}" if self.namespace else f"{self.kind.name} {self.name}"
