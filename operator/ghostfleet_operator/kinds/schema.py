"""From a pydantic model to the structural schema of a CRD.

What pydantic writes and a structural schema refuses or distorts is put right here: references are inlined, optional
is "not required" instead of a null, constants are enums, unknown fields are the API server's business. A list, map or
string without a maximum is an error, because the API server prices CEL rules by what could be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from ghostfleet_simulator.descriptions import describe

Schema = dict[str, Any]

_LIST_KEYS: Final = {
    "adapters": ["name"],
    "conditions": ["type"],
    "failures": ["type", "name"],
    "imagePullSecrets": ["name"],
}
"""Lists that are merged by keys."""
_SETS: Final = ("match.models", "match.endpoints")
"""Lists of which each value is there once, in any order; every other one is replaced as a whole."""

_INT32: Final = 2**31 - 1
_INT64: Final = 2**63 - 1
_KEPT: Final = ("enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


class NoSchemaError(Exception):
    """A model that has no structural schema; says the path and why."""


def structural(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The structural schema of a model; `defaults` off for a status. Raises `NoSchemaError`."""
    describe(model)
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _Converter(raw.get("$defs", {}), defaults).convert(raw, model.__name__)


class _Converter:
    """Turns one of pydantic's JSON schemas, and what it refers to, into a structural one."""

    def __init__(self, definitions: Mapping[str, Any], defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults
        self._parts: dict[str, Callable[[Schema, str], Schema]] = {
            "string": self._string,
            "integer": self._integer,
            "boolean": lambda _raw, _path: {},
            "array": self._array,
            "object": self._object,
        }

    def convert(self, raw: Mapping[str, Any], path: str) -> Schema:
        """The schema of the field at `path`."""
        raw = self._inlined(raw)
        schema: Schema = {}
        if "description" in raw:
            schema["description"] = _prose(raw["description"])
        if raw.get("x-kubernetes-int-or-string"):
            # The patterns of quantities bound their lengths.
            schema |= {"x-kubernetes-int-or-string": True} | _kept(raw, ("pattern", "minimum"))
        else:
            kind = raw.get("type", "")
            if kind not in self._parts:
                raise NoSchemaError(f"{path}: no structural schema for {raw!r:.200}")
            schema |= {"type": kind} | self._parts[kind](raw, path)
        if self._defaults and isinstance(raw.get("default"), (str, int, bool)):
            schema["default"] = raw["default"]
        return schema | _kept(raw, ("x-kubernetes-validations",))

    def _inlined(self, raw: Mapping[str, Any]) -> Schema:
        """`raw` without a reference and without a null beside its type."""
        result = dict(raw)
        if options := [option for option in result.pop("anyOf", []) if option.get("type") != "null"]:
            if len(options) > 1:
                raise NoSchemaError(f"a union is not structural: {options!r:.200}")
            result = {**options[0], **result}
        if reference := result.pop("$ref", None):
            result = {**self._inlined(self._definitions[reference.rpartition("/")[2]]), **result}
        return result

    def _string(self, raw: Schema, path: str) -> Schema:
        schema = _kept(raw, (*_KEPT, "format"))
        if "const" in raw:
            schema["enum"] = [raw["const"]]
        if not {"enum", "maxLength", "format"} & schema.keys():
            raise NoSchemaError(f"{path}: a string needs a maximum length")
        return schema

    def _integer(self, raw: Schema, path: str) -> Schema:
        # pydantic writes `ge` and `le` where a bound does not fit a float.
        minimum, maximum = raw.get("minimum", raw.get("ge")), raw.get("maximum", raw.get("le"))
        if minimum is None or maximum is None:
            raise NoSchemaError(f"{path}: an integer needs a minimum and a maximum")
        # A format is a maximum, too; one of both is enough.
        format_of = {_INT32: "int32", _INT64: "int64"}.get(maximum)
        return {"format": format_of, "minimum": minimum} if format_of else {"minimum": minimum, "maximum": maximum}

    def _array(self, raw: Schema, path: str) -> Schema:
        if "maxItems" not in raw:
            raise NoSchemaError(f"{path}: a list needs a maximum length")
        keys = _LIST_KEYS.get(path.rpartition(".")[2])
        return {
            **_kept(raw, _KEPT),
            "items": _unnamed(self.convert(raw["items"], f"{path}[]")),
            "x-kubernetes-list-type": "map" if keys else "set" if path.endswith(_SETS) else "atomic",
            **({"x-kubernetes-list-map-keys": list(keys)} if keys else {}),
        }

    def _object(self, raw: Schema, path: str) -> Schema:
        if "properties" in raw:
            fields = {name: self.convert(field, f"{path}.{name}") for name, field in raw["properties"].items()}
            return {"properties": fields} | _kept(raw, ("required",))
        if "maxProperties" not in raw:
            raise NoSchemaError(f"{path}: a map needs a maximum size")
        value = self.convert(raw["additionalProperties"], f"{path}.*")
        return _kept(raw, _KEPT) | {"additionalProperties": _unnamed(value)}


def _unnamed(schema: Schema) -> Schema:
    """The schema of an item: what it is, is said of the list or map, and no client shows it twice."""
    return {key: value for key, value in schema.items() if key != "description"}


def _kept(raw: Mapping[str, Any], keys: tuple[str, ...]) -> Schema:
    return {key: raw[key] for key in keys if key in raw}


def _prose(text: str) -> str:
    """A docstring as paragraphs, each on one line."""
    return "\n\n".join(re.sub(r"\s+", " ", paragraph).strip() for paragraph in text.split("\n\n"))


def brief(schema: Schema, longest: int) -> Schema:
    """A schema whose descriptions stop at the last end of a clause within `longest` characters, or at the first."""
    made = _with_parts(schema, lambda part: brief(part, longest))
    if len(text := made.get("description", "")) > longest:
        stops = [found.start() for found in re.finditer(r"[.;:](?=\s|$)", text)] or [len(text)]
        made["description"] = text[: max((stop for stop in stops if stop < longest), default=stops[0])] + "."
    return made


def silent(schema: Schema) -> Schema:
    """A schema without descriptions."""
    return _unnamed(_with_parts(schema, silent))


def _with_parts(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A schema whose fields, items and values are changed."""
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {name: change(field) for name, field in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in made:
            made[key] = change(made[key])
    return made


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Every field under an object schema in order, as (path, schema, required); `[]` and `.*` stand for items."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, field, name in required
        inner, suffix = field, ""
        if field.get("type") == "array":
            inner, suffix = field["items"], "[]"
        yield from fields(inner, here + suffix)
