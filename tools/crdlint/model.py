"""What rules look at, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]

INT32: Final = 2**31 - 1
INT64: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be; `path` is that of a field, or of a part of the CRD."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """One schema in a CRD: a field, the items of a list (`a[]`) or the values of a map (`a.*`)."""

    path: str
    schema: Schema
    parent: Schema
    """The schema that this one is in."""

    @property
    def name(self) -> str:
        """The last part of the path; empty for items and values, which have no name."""
        last = self.path.rpartition(".")[2]
        return "" if last == "*" or last.endswith("[]") else last

    @property
    def in_status(self) -> bool:
        """Whether it is the operator that writes it."""
        return self.path == "status" or self.path.startswith("status.")

    @property
    def type(self) -> str:
        """Its type; `int-or-string` for one of both, empty where nothing is said."""
        return "int-or-string" if self.schema.get("x-kubernetes-int-or-string") else str(self.schema.get("type", ""))

    @property
    def required(self) -> bool:
        """Whether objects must have it."""
        return self.name in self.parent.get("required", ())


class Crd:
    """A CustomResourceDefinition as YAML gave it."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.spec: Mapping[str, Any] = raw["spec"]
        self.kind: str = self.spec["names"]["kind"]
        self.versions: list[Mapping[str, Any]] = list(self.spec["versions"])
        self.roots: list[Schema] = [version["schema"]["openAPIV3Schema"] for version in self.versions]
        self.fields: list[Field] = [field for root in self.roots for field in _walk(root, "")]
        """Every field below the top, in order; those of `metadata` are the API server's."""

    def find(self, path: str) -> Schema | None:
        """The schema at a path such as `.spec.model.name`; a selection such as `[?(@.type=="X")]` stands for items."""
        schema: Schema = self.roots[0]
        for part in path.split("[?", maxsplit=1)[0].strip(".").split("."):
            if part not in schema.get("properties", {}):
                return None
            schema = schema["properties"][part]
        return schema


def _walk(schema: Schema, path: str) -> Iterator[Field]:
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield Field(here, inner, schema)
        yield from _walk(inner, here)
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), Mapping):
            yield Field(path + suffix, schema[key], schema)
            yield from _walk(schema[key], path + suffix)


Rule = Callable[[Crd], Iterator[Finding]]
"""A rule; its name is the function's, the first line of its docstring what it asks for."""
