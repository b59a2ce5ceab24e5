"""What all settings blocks are made of: marks for flags and live blocks, the base model, and small types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Flag:
    """Marks a field that `ghostfleet serve` takes as `--<name>`; a list field takes several values."""

    name: str
    short: str = ""
    """Another spelling, behind a single dash."""


@dataclass(frozen=True, slots=True)
class Live:
    """Marks a block of `ServerConfig` that a running server takes over without a restart."""


class Settings(BaseModel):
    """Base of every settings block: camelCase outside, unknown fields refused, frozen once made."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
    )


def problem(path: str, message: str) -> PydanticCustomError:
    """A cross-field error whose text names the field it is about, relative to the block that raises it."""
    return PydanticCustomError("settings", "{path}: {message}", {"path": path, "message": message})


def _no_boolean(value: object) -> object:
    # pydantic takes true for 1, the API server does not.
    if isinstance(value, bool):
        raise PydanticCustomError("settings", "{value} is not a whole number", {"value": str(value).lower()})
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
Switch = Annotated[bool, Field(strict=True)]
"""On or off; as a flag `--name` and `--no-name`."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[^\x00-\x20\x7f]+$")]
GREATEST_PORT: Final = 65535
Port = Annotated[Whole, Field(ge=1, le=GREATEST_PORT)]


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """The names, if each is there once."""
    if len(set(values)) != len(values):
        raise PydanticCustomError("settings", "the names must differ from each other")
    return values
