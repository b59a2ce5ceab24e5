"""The narrow part of a pod that a user may shape; the rest belongs to the operator."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, PlainValidator, StringConstraints, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from ghostfleet_simulator.config import Settings, problem

RESERVED_PREFIX: Final = "ghostfleet.dev/"
_KEY: Final = re.compile(r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE: Final = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
_DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_QUANTITY: Final = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
_SCALE: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def _keys(values: dict[str, str]) -> dict[str, str]:
    for key in values:
        if key.startswith(RESERVED_PREFIX):
            raise PydanticCustomError(
                "settings", "{key} is reserved: keys under ghostfleet.dev/ belong to the operator", {"key": key}
            )
        if not _KEY.fullmatch(key):
            raise PydanticCustomError(
                "settings",
                "{key} is not a key: [prefix/]name, name of at most 63 letters, digits, - _ .",
                {"key": repr(key)},
            )
    return values


class _ReservedKeys:
    """Says the rule about reserved keys to the API server."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rule = f"self.all(key, !key.startsWith('{RESERVED_PREFIX}'))"
        return {
            **handler(schema),
            "x-kubernetes-validations": [
                {"rule": rule, "message": "keys under ghostfleet.dev/ belong to the operator"}
            ],
        }


LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=_LABEL_VALUE)]
Labels = Annotated[
    dict[str, LabelValue],
    Field(max_length=32),
    AfterValidator(_keys),
    _ReservedKeys,
]
Annotations = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=4096)]],
    Field(max_length=32),
    AfterValidator(_keys),
    _ReservedKeys,
]
ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_DNS_SUBDOMAIN)]


class _IntOrString:
    """Says `IntOrString` to the API server where a model takes an integer or a string."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"x-kubernetes-int-or-string": True, "pattern": _QUANTITY, "maxLength": 28, "minimum": 0}


def _quantity(raw: object) -> int | str:
    if isinstance(raw, bool) or not isinstance(raw, (int, str)) or not re.fullmatch(_QUANTITY, str(raw)):
        raise PydanticCustomError(
            "settings",
            "{raw} is not an amount: write a number >= 0, with a unit (m, k, M, G, T, Ki, Mi, Gi, Ti) or none",
            {"raw": repr(raw)},
        )
    return raw


Quantity = Annotated[int | str, PlainValidator(_quantity), _IntOrString]


def amount(quantity: int | str) -> Decimal:
    """The number that a quantity such as `50m`, `96Mi` or `2` spells."""
    text = str(quantity)
    number = text.rstrip("kKMGTim")
    suffix = text[len(number) :]
    return Decimal(number) / 1000 if suffix == "m" else Decimal(number) * _SCALE[suffix]


class ResourceAmounts(Settings):
    """Amounts of compute."""

    cpu: Quantity | None = None
    """CPUs: `1`, `500m`."""

    memory: Quantity | None = None
    """Bytes: `256Mi`."""


class Resources(Settings):
    """Compute that a pod asks for and may use at most."""

    requests: ResourceAmounts = ResourceAmounts()
    """What is set aside; without a value a small measured amount."""

    limits: ResourceAmounts = ResourceAmounts()
    """What is never exceeded; without a value there is no limit."""

    @model_validator(mode="after")
    def _within_limits(self) -> Self:
        for name in ("cpu", "memory"):
            request, limit = getattr(self.requests, name), getattr(self.limits, name)
            if request is not None and limit is not None and amount(request) > amount(limit):
                raise problem(f"requests.{name}", f"{request} is more than the limit of {limit}")
        return self


class TolerationOperator(StrEnum):
    """How a toleration is compared with a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """Effect of a taint."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Settings):
    """A taint that the pods tolerate, as in a pod."""

    key: Annotated[str | None, StringConstraints(max_length=317)] = None
    """Key of the taint; without one all keys, with `Exists`."""

    operator: TolerationOperator = TolerationOperator.EQUAL
    """How `value` is compared."""

    value: Annotated[str | None, StringConstraints(max_length=63)] = None
    """Value of the taint, with `Equal`."""

    effect: TaintEffect | None = None
    """Effect of the taint; without one all of them."""

    toleration_seconds: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    """How long a `NoExecute` taint is tolerated; without a value for ever."""

    @model_validator(mode="after")
    def _as_kubernetes_has_it(self) -> Self:
        if self.operator is TolerationOperator.EXISTS and self.value:
            raise problem("value", "must be empty with operator Exists")
        if self.operator is TolerationOperator.EQUAL and not self.key:
            raise problem("key", "required with operator Equal")
        if self.toleration_seconds is not None and self.effect is not TaintEffect.NO_EXECUTE:
            raise problem("tolerationSeconds", "only with effect NoExecute")
        return self


class WhenUnsatisfiable(StrEnum):
    """What happens to a pod that no node can take without too much skew."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class TopologySpreadConstraint(Settings):
    """How the pods of the server are spread, as in a pod; which pods count is known."""

    topology_key: Annotated[str, StringConstraints(min_length=1, max_length=317)]
    """Label of nodes whose values tell the domains apart: `kubernetes.io/hostname`, `topology.kubernetes.io/zone`."""

    when_unsatisfiable: WhenUnsatisfiable
    """What happens to a pod that cannot be placed so."""

    max_skew: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1
    """By how many pods a domain may have more than the one that has fewest."""


def _distinct_spreads(spreads: tuple[TopologySpreadConstraint, ...]) -> tuple[TopologySpreadConstraint, ...]:
    if len({(spread.topology_key, spread.when_unsatisfiable) for spread in spreads}) != len(spreads):
        raise PydanticCustomError("settings", "topologyKey and whenUnsatisfiable together must differ from each other")
    return spreads


class PullSecret(Settings):
    """A Secret of the server's namespace that holds registry credentials."""

    name: ObjectName
    """Name of the Secret."""


def _distinct_names(secrets: tuple[PullSecret, ...]) -> tuple[PullSecret, ...]:
    if len({secret.name for secret in secrets}) != len(secrets):
        raise PydanticCustomError("settings", "the names must differ from each other")
    return secrets


class PullPolicy(StrEnum):
    """When an image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Image(Settings):
    """Parts of the image reference that differ from the operator's default."""

    repository: (
        Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9._:/]*$")]
        | None
    ) = None
    """Registry and name, without a tag."""

    tag: Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9_][-A-Za-z0-9_.]*$")] | None = None
    """Tag; with another repository the default's unless given."""

    digest: Annotated[str, StringConstraints(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Digest, which wins over the tag."""

    pull_policy: PullPolicy | None = None
    """When the image is pulled."""


class Pod(Settings):
    """What the server's pods look like to the cluster."""

    labels: Labels = Field(default_factory=dict)
    """Labels of the pods, by which schedulers and services find them."""

    annotations: Annotations = Field(default_factory=dict)
    """Annotations of the pods."""

    image: Image = Image()
    """Image of the simulator where it is not the operator's default."""

    image_pull_secrets: Annotated[
        tuple[PullSecret, ...],
        Field(
            max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
        AfterValidator(_distinct_names),
    ] = ()
    """Secrets with registry credentials, in addition to the operator's."""

    resources: Resources = Resources()
    """Compute of the simulator's container."""

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """Labels that a node must have."""

    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pods tolerate."""

    topology_spread_constraints: Annotated[
        tuple[TopologySpreadConstraint, ...],
        Field(
            max_length=8,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["topologyKey", "whenUnsatisfiable"],
            },
        ),
        AfterValidator(_distinct_spreads),
    ] = ()
    """How the pods are spread over nodes, zones and the like."""

    priority_class_name: Annotated[str | None, StringConstraints(max_length=253, pattern=_DNS_SUBDOMAIN)] = None
    """Priority class of the pods."""

    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Time that a pod has to stop. For 5 s of it it goes on as before, so that clients and schedulers turn away from
    it; then running requests may end, and 5 s before its end those that still run are aborted."""
