"""`SimulatedModelServer`: a number of equal simulated servers behind one Service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ghostfleet_operator.kinds.meta import Condition, Observed, Resource, Time, parse
from ghostfleet_operator.kinds.networking import Networking
from ghostfleet_operator.kinds.pod import ObjectName, Pod
from ghostfleet_operator.kinds.rollout import Rollout
from ghostfleet_simulator.config import Behaviour, FixedConfig, KVCache, Profile, Settings, check_adapter_names, problem
from ghostfleet_simulator.problems import InvalidInput, Problem

LONGEST_NAME: Final = 48
"""Longest name of a server: with `-admin-<8 digits>` it still is a DNS label."""

ENGINE_TYPE_LABEL: Final = "llm-d.ai/engine-type"
"""Label of a pod that tells a scheduler which names its metrics have."""
NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
ROLE_LABEL: Final = "llm-d.ai/role"
MOST_REPLICAS: Final = 1000
MOST_ENDPOINTS: Final = 32
MOST_LAGGING: Final = 10


@dataclass(frozen=True, slots=True)
class Effect:
    """Marks a field of a spec with what a change of it does to running pods; shown in the reference."""

    text: str


class ProfileKind(StrEnum):
    """Kinds that a server can refer to for its profile."""

    LATENCY_PROFILE = "LatencyProfile"
    CLUSTER_LATENCY_PROFILE = "ClusterLatencyProfile"


class ProfileRef(Settings):
    """A profile in the namespace of the server, or one of the cluster."""

    kind: ProfileKind = ProfileKind.LATENCY_PROFILE
    """`LatencyProfile` is one in the namespace of the server, `ClusterLatencyProfile` one of the whole cluster, which
    the operator has to be told to use."""

    name: ObjectName
    """Name of the profile."""


class Role(StrEnum):
    """Part of a request that a server is for, where prefill and decode are done by different ones."""

    PREFILL_DECODE = "PrefillDecode"
    PREFILL = "Prefill"
    DECODE = "Decode"
    ENCODE = "Encode"

    @property
    def label(self) -> str | None:
        """Value of the label `llm-d.ai/role`. A server for all parts has none: an empty value would exclude it."""
        return None if self is Role.PREFILL_DECODE else self.value.lower()


_BLOCKS: Final = f"(has(self.kvCache) ? self.kvCache.blocks : {KVCache().blocks})"
_SIZE: Final = f"(has(self.kvCache) ? self.kvCache.blockSize : {KVCache().block_size})"
_SPEC_RULES: Final[list[JsonValue]] = [
    {
        "rule": "has(self.profile) != has(self.profileRef)",
        "message": "set exactly one of profile and profileRef",
    },
    {
        "rule": "self.model.name == oldSelf.model.name",
        "fieldPath": ".model.name",
        "message": "the model of a server cannot be changed; make another server",
    },
    {
        "rule": f"(self.model.maxModelLen + {_SIZE} - 1) / {_SIZE} + 1 <= {_BLOCKS}",
        "fieldPath": ".model.maxModelLen",
        "message": "kvCache.blocks does not hold one sequence of maxModelLen tokens and the null block",
    },
]
_NAME_RULES: Final[list[JsonValue]] = [
    {
        "rule": f"self.metadata.name.size() <= {LONGEST_NAME} && self.metadata.name.matches('{NAME_PATTERN}')",
        "message": f"metadata.name, after which Services and pods are named, must be at most {LONGEST_NAME} "
        "lower-case letters, digits and -, and begin with a letter",
    }
]


class ServerSpec(Behaviour, FixedConfig):
    """What is wanted. Blocks that are left out have the simulator's defaults."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _SPEC_RULES})

    replicas: Annotated[int, Field(ge=0, le=MOST_REPLICAS), Effect("starts or stops pods")] = 1
    """Number of servers. Leave it out where an autoscaler owns it."""

    suspend: Annotated[bool, Effect("starts or stops pods")] = False
    """Stops all pods and keeps the rest, whatever `replicas` says."""

    role: Annotated[Role, Effect("restart")] = Role.PREFILL_DECODE
    """Label `llm-d.ai/role` of the pods. Schedulers tell prefill from decode by it; `PrefillDecode` sets none.
    What the server does is said elsewhere: `kvTransfer.kvRole`, and for `Encode` `model.encoderOnly`."""

    admin_token_epoch: Annotated[int, Field(ge=1, le=2**31 - 1), Effect("gives pods another admin token")] = 1
    """Raise it where the admin token of this server became known: its pods get another one, within two minutes."""

    profile_ref: ProfileRef | None = None
    """Profile to use, by name. Exactly one of `profileRef` and `profile` is set."""

    profile: Profile | None = None
    """Profile written here, with the fields of `kubectl explain latencyprofile.spec`."""

    rollout: Annotated[Rollout, Effect("says how live fields reach pods; another `strategy` replaces pods")] = Rollout()
    """How a change of the profile or of another live field reaches pods that run."""

    networking: Annotated[Networking, Effect("changes the Service, and the InferencePool")] = Networking()
    """How the server is reached."""

    pod: Annotated[Pod, Effect("restart")] = Pod()
    """What the pods look like to the cluster."""

    @model_validator(mode="after")
    def _one_profile(self) -> Self:
        if (self.profile is None) == (self.profile_ref is None):
            given = "neither is set" if self.profile is None else "both are set"
            raise PydanticCustomError(
                "settings", "set exactly one of profile and profileRef; {given}", {"given": given}
            )
        return self

    @model_validator(mode="after")
    def _one_role(self) -> Self:
        given = self.pod.labels.get(ROLE_LABEL)
        if given and self.role.label not in (None, given):
            raise problem("pod.labels", f"{ROLE_LABEL} is {given!r}, but role is {self.role.value}; give one of them")
        return self

    @property
    def pod_labels(self) -> dict[str, str]:
        """Labels of the pods by which schedulers know them: the engine's, the role's, and those given, which win."""
        role = self.role.label or self.pod.labels.get(ROLE_LABEL)
        others = {key: value for key, value in self.pod.labels.items() if key != ROLE_LABEL}
        return {ENGINE_TYPE_LABEL: self.engine.dialect.engine_type} | others | ({ROLE_LABEL: role} if role else {})

    @model_validator(mode="after")
    def _adapters_are_no_models(self) -> Self:
        check_adapter_names(self.lora, self.model.aliases)
        return self


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


class SimulatedModelServer(Resource):
    """Simulated inference servers of one model: pods that answer like vLLM, with the latencies of a profile."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _NAME_RULES})

    api_version: Literal["ghostfleet.dev/v1alpha1"]
    kind: Literal["SimulatedModelServer"]
    spec: ServerSpec
    """What is wanted."""

    status: ServerStatus | None = None
    """Written by the operator."""


def parse_server(raw: object) -> SimulatedModelServer:
    """A raw object as a server, its status left out; raises `InvalidInput`."""
    server = parse(SimulatedModelServer, raw)
    name = server.metadata.name
    if len(name) > LONGEST_NAME:
        raise InvalidInput(
            [Problem("metadata.name", f"{name!r} has {len(name)} characters; at most {LONGEST_NAME} are allowed")]
        )
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput(
            [Problem("metadata.name", f"{name!r} must be lower-case letters, digits and -, and begin with a letter")]
        )
    return server


def replicas_of(raw: Any) -> int | None:
    """How many replicas a raw server wants, whatever else is wrong with it; None where that is not clear."""
    spec = raw.get("spec") if isinstance(raw, dict) else None
    if not isinstance(spec, dict):
        return None
    replicas, suspend = spec.get("replicas", 1), spec.get("suspend", False)
    if suspend is True:
        return 0
    is_clear = suspend is False and type(replicas) is int and 0 <= replicas <= MOST_REPLICAS
    return replicas if is_clear else None


def rollout_of(raw: Any) -> Rollout:
    """How a raw server wants new documents to come to its pods, whatever else is wrong with it; the defaults where that
    is not clear."""
    try:
        return Rollout.model_validate(raw["spec"].get("rollout") or {})
    except (ValidationError, LookupError, TypeError, AttributeError):
        return Rollout()


def parse_status(raw: Any) -> ServerStatus:
    """The status of a raw object; an empty one where there is none or it cannot be read."""
    try:
        return ServerStatus.model_validate((raw.get("status") or {}) if isinstance(raw, dict) else {})
    except ValidationError:
        return ServerStatus()
