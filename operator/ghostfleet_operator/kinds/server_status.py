"""The status of a `SimulatedModelServer`: what the operator found out."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, ValidationError

from ghostfleet_operator.kinds.meta import Condition, Observed, Time

MOST_ENDPOINTS: Final = 32
MOST_LAGGING: Final = 10


class Desired(Observed):
    """The document that every pod should run."""

    revision: Annotated[int, Field(ge=0, le=2**63 - 1)]
    """Number of the document; it only grows."""

    hash: Annotated[str, Field(max_length=128)]
    """Hash of the document's live part."""

    since: Time | None = None
    """When the operator first wanted it, to the microsecond."""


class Source(Observed):
    """Where the profile in use comes from."""

    kind: Annotated[str, Field(max_length=63)]
    """Kind of the object, or `Inline`."""

    name: Annotated[str | None, Field(max_length=253)] = None
    """Name of the object, if it is one."""

    generation: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    """Its generation."""


class Lagging(Observed):
    """A Ready pod that does not run the desired document."""

    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""

    revision: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    """Revision that it runs, if known."""

    hash: Annotated[str | None, Field(max_length=128)] = None
    """Hash that it runs, if known."""

    reason: Annotated[str | None, Field(max_length=1024)] = None
    """Why it lags."""


class RolloutStatus(Observed):
    """A revision on its way through the steps of `spec.rollout`."""

    revision: Annotated[int, Field(ge=0, le=2**63 - 1)]
    """The revision; `spec.rollout.promote` refers to it."""

    hash: Annotated[str, Field(max_length=128)]
    """Its hash."""

    step: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """The step under way; the first is 1."""

    steps: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Number of steps."""

    wave_replicas: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Pods of the wave."""

    synced_replicas: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Those of them that are Ready and report the hash."""

    start_time: Time | None = None
    """When it began."""

    hold_time: Time | None = None
    """Since when the whole wave has run it; the step's pause counts from here."""


class RejectedStatus(Observed):
    """A document that was taken back. It is tried again when what is wanted, or `spec.rollout`, changes."""

    revision: Annotated[int, Field(ge=0, le=2**63 - 1)]
    """Revision that it had."""

    hash: Annotated[str, Field(max_length=128)]
    """Its hash."""

    reason: Annotated[str, Field(max_length=64)]
    """Why, as one CamelCase word: `Refused`, `NotAcknowledged`, `NotReady`, `Restarted`, `Errors`."""

    message: Annotated[str, Field(max_length=1024)]
    """Why, for people."""

    time: Time
    """When."""


class ProfileStatus(Observed):
    """How far the profile has come."""

    source: Source | None = None
    """Where it comes from."""

    desired: Desired | None = None
    """What every pod should run."""

    synced_replicas: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Ready pods that report the desired hash."""

    lagging_replicas: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Ready pods that do not run what they should by now."""

    lagging: Annotated[tuple[Lagging, ...] | None, Field(max_length=MOST_LAGGING)] = None
    """The first of those that do not."""

    rollout: RolloutStatus | None = None
    """The wave under way, while there is one."""

    rejected: RejectedStatus | None = None
    """The document that is wanted and was taken back, if there is one."""

    last_sync_duration: Annotated[str | None, StringConstraints(max_length=25)] = None
    """Time from wanting a document to the last acknowledgement, the last time there was one."""

    last_sync_time: Time | None = None
    """When every Ready pod last came to run the desired document."""


class KVEventsEndpoint(Observed):
    """Where one server publishes its KV events."""

    endpoint: Annotated[str | None, Field(max_length=253)] = None
    """What a subscriber connects to, or what the server connects to."""

    replay_endpoint: Annotated[str | None, Field(max_length=253)] = None
    """What sends batches again, if anything does."""

    topic: Annotated[str, Field(max_length=1024)] = ""
    """Topic of its messages."""


class Endpoint(Observed):
    """One rank of a pod that takes requests."""

    address: Annotated[str, Field(max_length=45)]
    """IP address of the pod."""

    port: Annotated[int, Field(ge=1, le=65535)]
    """Port of the API and of `/metrics`."""

    admin_port: Annotated[int | None, Field(ge=1, le=65535)] = None
    """Port of the admin API."""

    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""

    rank: Annotated[int, Field(ge=0, le=65535)]
    """Data-parallel rank in the pod."""

    kv_events: Annotated[KVEventsEndpoint | None, Field(alias="kvEvents")] = None
    """Where it publishes its KV events, if it does."""


class ServerStatus(Observed):
    """What the operator found out about a server."""

    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """`Ready`: what is wanted is what runs. `ProfileResolved`, `ProfileSynced`, `WorkloadAvailable`: its parts.
    `InferencePoolApplied` is there where a pool is wanted, `Reconciling` and `Stalled` only while they hold."""

    observed_generation: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    """Generation of the spec that this status is about."""

    replicas: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Pods that exist."""

    ready_replicas: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Pods that take requests."""

    updated_replicas: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Pods made from the newest template."""

    selector: Annotated[str | None, Field(max_length=512)] = None
    """Selector of the pods, for autoscalers."""

    profile: ProfileStatus | None = None
    """How far the profile has come."""

    endpoints: Annotated[tuple[Endpoint, ...] | None, Field(max_length=MOST_ENDPOINTS)] = None
    """The first ranks that take requests; the ConfigMap `<name>-endpoints` has all ports that do."""

    endpoint_count: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    """Number of all ranks that take requests."""

    url: Annotated[str | None, Field(max_length=512)] = None
    """Address of the Service inside the cluster."""

    def condition(self, aspect: str) -> Condition | None:
        """The condition of a type, if it is there."""
        return next((condition for condition in self.conditions if condition.type == aspect), None)


def parse_status(raw: Any) -> ServerStatus:
    """The status of a raw object; an empty one where there is none or it cannot be read."""
    try:
        return ServerStatus.model_validate((raw.get("status") or {}) if isinstance(raw, dict) else {})
    except ValidationError:
        return ServerStatus()
