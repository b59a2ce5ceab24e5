"""`SimulatedModelServer`: a number of equal simulated servers behind one Service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ghostfleet_operator.kinds.meta import Resource, parse
from ghostfleet_operator.kinds.networking import Networking
from ghostfleet_operator.kinds.pod import ObjectName, Pod
from ghostfleet_operator.kinds.rollout import Rollout
from ghostfleet_operator.kinds.server_status import ServerStatus
from ghostfleet_simulator.config import Behaviour, FixedConfig, KVCache, Profile, Settings, check_adapter_names, problem
from ghostfleet_simulator.problems import InvalidInput, Problem

LONGEST_NAME: Final = 48
"""Longest name of a server: with `-admin-<8 digits>` it still is a DNS label."""

ENGINE_TYPE_LABEL: Final = "llm-d.ai/engine-type"
"""Label of a pod that tells a scheduler which names its metrics have."""
NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
ROLE_LABEL: Final = "llm-d.ai/role"
MOST_REPLICAS: Final = 1000


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
