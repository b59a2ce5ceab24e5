"""What every kind has: type, metadata, conditions; and how a raw object becomes one of our kinds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from ghostfleet_simulator.config import Settings
from ghostfleet_simulator.problems import InvalidInput, Problem, explain

GROUP: Final = "ghostfleet.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"


class Observed(BaseModel):
    """Base of what the API server or the operator wrote: fields of another version are skipped, not refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="ignore",
        frozen=True,
    )


class ObjectMeta(Observed):
    """The part of an object's metadata that the operator reads."""

    name: str
    """Name, unique among objects of the kind in the namespace."""

    namespace: str = "default"
    """Namespace of the object."""

    uid: str = ""
    """Identity given by the API server; empty in a file."""

    generation: int = 1
    """Counts the changes of the spec; 1 in a file."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the object."""

    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the object."""

    deletion_timestamp: str | None = None
    """When deletion was asked for, if it was."""


class ClusterObjectMeta(ObjectMeta):
    """The same of an object that is in no namespace."""

    namespace: str = ""
    """Empty."""


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


Time = Annotated[datetime, Field(json_schema_extra={"type": "string", "format": "date-time"})]


class Condition(Observed):
    """One aspect of an object's state, as `metav1.Condition`."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """The aspect, in CamelCase."""

    status: ConditionStatus
    """Whether it holds."""

    reason: Annotated[
        str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ]
    """Why, as one CamelCase word for programs."""

    message: Annotated[str, StringConstraints(max_length=32768)]
    """Why, for people."""

    observed_generation: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Generation of the object that this condition is about."""

    last_transition_time: Time
    """When `status` last changed."""


def rfc3339(moment: datetime) -> str:
    """`moment` (aware) in the notation of the API, whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


R = TypeVar("R", bound=BaseModel)


def parse(model: type[R], raw: object) -> R:
    """`raw`, an object as JSON or YAML gave it, as a `model`; raises `InvalidInput` with paths such as `spec.seed`.

    Types are read as the API server reads them: no string passes as a number, and only the written names of fields
    count. What a laptop accepts is accepted by a cluster.
    """
    if not isinstance(raw, dict):
        raise InvalidInput([Problem("", f"an object is expected, not {raw!r:.60}")])
    given = {key: value for key, value in raw.items() if key != "status"}
    try:
        return model.model_validate_json(
            json.dumps(given, default=_not_json), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        raise InvalidInput(explain(error, model)) from None
    except (TypeError, ValueError) as error:
        raise InvalidInput([Problem("", str(error))]) from None


def _not_json(value: Any) -> str:
    raise TypeError(f"{value!r:.60} is a {type(value).__name__}; write it as a string")


class Resource(Settings):
    """Base of our kinds."""

    api_version: str
    kind: str
    metadata: ObjectMeta
