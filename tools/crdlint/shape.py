"""Rules about types, limits, lists and defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema
from tools.crdlint.model import INT32, INT64, Crd, Finding, Schema

_TYPES: Final = frozenset({"object", "array", "string", "integer", "boolean", "number", "int-or-string"})
_FORBIDDEN: Final = frozenset(
    {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "title", "prefixItems", "uniqueItems", "definitions"}
)
_OPEN: Final = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")
_SCALARS: Final = ("string", "integer", "boolean", "int-or-string")


def structural(crd: Crd) -> Iterator[Finding]:
    """Every schema has one type and no part that a structural schema may not have or that distorts it."""
    for field in crd.fields:
        if field.type not in _TYPES:
            yield Finding(field.path, "has no type")
        for key in sorted(_FORBIDDEN & field.schema.keys()):
            yield Finding(field.path, f"has {key}")
        if "properties" in field.schema and "additionalProperties" in field.schema:
            yield Finding(field.path, "is an object and a map")


def no_unknown_fields(crd: Crd) -> Iterator[Finding]:
    """Nothing is kept that the schema does not know; a mistyped field is told of."""
    if crd.spec.get("preserveUnknownFields"):
        yield Finding("spec.preserveUnknownFields", "is set")
    for field in crd.fields:
        for key in _OPEN:
            if field.schema.get(key):
                yield Finding(field.path, f"has {key}")
        empty = not {"properties", "additionalProperties"} & field.schema.keys()
        if field.type == "object" and empty and field.path != "metadata":
            yield Finding(field.path, "is an object of unknown fields")


def no_nulls(crd: Crd) -> Iterator[Finding]:
    """Absent is absent; null says nothing more."""
    for field in crd.fields:
        if field.schema.get("nullable"):
            yield Finding(field.path, "is nullable")


def no_floats(crd: Crd) -> Iterator[Finding]:
    """Floats lose digits on the way through clients; decimals are strings."""
    for field in crd.fields:
        if field.type == "number":
            yield Finding(field.path, "is a float")


def lists_say_how_they_merge(crd: Crd) -> Iterator[Finding]:
    """A list is atomic, a set of scalars, or a map by keys that every item has."""
    for field in crd.fields:
        if field.type != "array":
            continue
        kind, items = field.schema.get("x-kubernetes-list-type"), field.schema.get("items", {})
        keys = field.schema.get("x-kubernetes-list-map-keys", [])
        if kind not in ("atomic", "set", "map"):
            yield Finding(field.path, "does not say whether it is atomic, a set or a map")
        if kind == "set" and items.get("type") not in _SCALARS:
            yield Finding(field.path, "is a set of what is not a scalar")
        if (kind == "map") != bool(keys):
            yield Finding(field.path, "has no keys as a map, or keys without being one")
        for key in keys:
            inner = items.get("properties", {}).get(key, {})
            if inner.get("type") not in _SCALARS or not (key in items.get("required", ()) or "default" in inner):
                yield Finding(field.path, f"its key {key} is no scalar that every item has")


def lists_are_bounded(crd: Crd) -> Iterator[Finding]:
    """A list has a most number of items: CEL rules are priced by it, and etcd has room for so much only."""
    for field in crd.fields:
        if field.type == "array" and "maxItems" not in field.schema:
            yield Finding(field.path, "has no maxItems")


def strings_are_bounded(crd: Crd) -> Iterator[Finding]:
    """A string has a most length, or an enumeration, a format or a pattern that bounds it."""
    for field in crd.fields:
        bounded = {"maxLength", "enum"} & field.schema.keys() or field.schema.get("format") == "date-time"
        bounded = bounded or _is_finite(field.schema.get("pattern", ".*"))
        if field.type in ("string", "int-or-string") and not bounded and not _in_frame(field.path):
            yield Finding(field.path, "has no maxLength")


def maps_are_bounded(crd: Crd) -> Iterator[Finding]:
    """A map has a most number of entries."""
    for field in crd.fields:
        if "additionalProperties" in field.schema and "maxProperties" not in field.schema:
            yield Finding(field.path, "has no maxProperties")


def integers_are_bounded(crd: Crd) -> Iterator[Finding]:
    """An integer has a least value, and a greatest one: its own, or that of int32 or int64."""
    for field in crd.fields:
        if field.type == "int-or-string" and "minimum" not in field.schema:
            yield Finding(field.path, "has no minimum")
        if field.type != "integer":
            continue
        form, least, most = (field.schema.get(key) for key in ("format", "minimum", "maximum"))
        if most is None and form not in ("int32", "int64"):
            yield Finding(field.path, "has no maximum and is neither int32 nor int64")
        if least is None:
            yield Finding(field.path, "has no minimum")
        if most is not None and most > (INT32 if form == "int32" else INT64):
            yield Finding(field.path, f"has the format {form} and at most {most}")


def required_fields_have_no_default(crd: Crd) -> Iterator[Finding]:
    """What has a default need not be given; what is required is a field that exists."""
    for field in crd.fields:
        if field.required and "default" in field.schema:
            yield Finding(field.path, "is required and has a default")
    for path, schema in _objects(crd):
        for name in schema.get("required", ()):
            if name not in schema.get("properties", {}):
                yield Finding(path, f"requires {name}, which is no field of it")


def defaults_are_valid(crd: Crd) -> Iterator[Finding]:
    """A default is a value that the field itself accepts."""
    for field in crd.fields:
        if "default" not in field.schema:
            continue
        error = jsonschema.exceptions.best_match(
            jsonschema.Draft7Validator(_plain(field.schema)).iter_errors(field.schema["default"])
        )
        if error:
            yield Finding(field.path, f"its default is not valid: {error.message}")


def objects_in_lists_have_a_required_field(crd: Crd) -> Iterator[Finding]:
    """An item that may be empty is a trap: `-` alone would be one."""
    for field in crd.fields:
        if field.path.endswith("[]") and field.type == "object" and not field.schema.get("required"):
            yield Finding(field.path, "has no required field")


def patterns_are_anchored(crd: Crd) -> Iterator[Finding]:
    """A pattern is about the whole text, and one that the API server's engine (RE2) knows."""
    for field in crd.fields:
        pattern = field.schema.get("pattern", "^$")
        if not (pattern.startswith("^") and pattern.endswith("$")):
            yield Finding(field.path, f"its pattern is not anchored: {pattern}")
        if re.search(r"\(\?[=!<]|\\[1-9]", pattern):
            yield Finding(field.path, f"its pattern has what RE2 does not know: {pattern}")


def _is_finite(pattern: str) -> bool:
    """Whether a pattern repeats nothing without end."""
    return not re.search(r"[*+]|\{[0-9]+,\}", re.sub(r"\\.|\[[^\]]*\]", "", pattern))


def _in_frame(path: str) -> bool:
    return path in ("apiVersion", "kind")


def _objects(crd: Crd) -> Iterator[tuple[str, Schema]]:
    yield from (("", root) for root in crd.roots)
    yield from ((field.path, field.schema) for field in crd.fields)


def _plain(schema: Schema) -> Mapping[str, Any]:
    """A schema as JSON Schema understands it."""
    plain = {key: value for key, value in schema.items() if not key.startswith("x-")}
    return plain | ({"type": ["integer", "string"]} if schema.get("x-kubernetes-int-or-string") else {})


RULES: Final = (
    structural,
    no_unknown_fields,
    no_nulls,
    no_floats,
    lists_say_how_they_merge,
    lists_are_bounded,
    strings_are_bounded,
    maps_are_bounded,
    integers_are_bounded,
    required_fields_have_no_default,
    defaults_are_valid,
    objects_in_lists_have_a_required_field,
    patterns_are_anchored,
)
