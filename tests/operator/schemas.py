"""Specs for the schemas of our kinds: that satisfy a schema, that the models take too, and that neither does."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import jsonschema
from hypothesis import strategies as st
from tests.operator.objects import raw_cluster_profile, raw_profile, raw_server

from ghostfleet_operator.kinds import parse_profile, parse_server
from ghostfleet_operator.kinds.crd import KINDS, later, openapi
from ghostfleet_operator.kinds.schema import Schema
from ghostfleet_simulator.problems import InvalidInput, Problem

SERVER: Final = "SimulatedModelServer"
SCHEMAS: Final = {kind.name: openapi(kind) for kind in KINDS}
FRAMES: Final = {found["kind"]: found for found in (raw_server(), raw_profile(), raw_cluster_profile())}
PARSERS: Final = dict.fromkeys(FRAMES, parse_profile) | {SERVER: parse_server}
LATER: Final = {kind.name: later(kind) for kind in KINDS}

Path = tuple[str | int, ...]


def strict(schema: Schema) -> Schema:
    """A structural schema as a JSON schema that refuses what strict field validation of the API server refuses."""
    plain = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "description"}
    if schema.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
    if "pattern" in plain:
        plain["pattern"] = re.sub(r"\$$", r"\\Z", plain["pattern"])  # `$` is the very end in RE2
    if plain.get("format") in ("int32", "int64"):
        plain.setdefault("maximum", 2 ** (int(plain.pop("format")[3:]) - 1) - 1)
    if "properties" in plain:
        plain["properties"] = {name: strict(field) for name, field in plain["properties"].items()}
        plain["additionalProperties"] = False
    elif "additionalProperties" in plain:
        plain["additionalProperties"] = strict(plain["additionalProperties"])
    if "items" in plain:
        plain["items"] = strict(plain["items"])
    return plain


VALIDATORS: Final = {
    name: jsonschema.Draft7Validator(strict(schema["properties"]["spec"])) for name, schema in SCHEMAS.items()
}


def texts(schema: Schema) -> st.SearchStrategy[str]:
    """Strings that satisfy the pattern and the lengths of a schema."""
    if "pattern" not in schema:
        return st.text(min_size=schema.get("minLength", 0), max_size=min(schema["maxLength"], 20))
    pattern = re.compile(schema["pattern"])
    found = st.from_regex(schema["pattern"], fullmatch=True, alphabet=st.characters(exclude_categories=["Cs"]))
    return found.filter(lambda text: len(text) <= schema.get("maxLength", 99) and bool(pattern.fullmatch(text)))


def instances(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that a structural schema accepts, the small and usual ones first."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(st.integers(0, 10_000), texts(schema))
    return _MAKERS[schema["type"]](schema)


def _objects(schema: Schema) -> st.SearchStrategy[Any]:
    """Maps, or objects with all of the required fields and some of the others."""
    if "additionalProperties" in schema:
        keys = st.sampled_from(["app", "llm-d.ai/role", "example.com/a.b-c"])
        least = schema.get("minProperties", 0)
        return st.dictionaries(keys, instances(schema["additionalProperties"]), min_size=least, max_size=3)
    required = set(schema.get("required", []))
    fields = {name: instances(field) for name, field in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: value for name, value in fields.items() if name in required},
        optional={name: value for name, value in fields.items() if name not in required},
    )


def _lists(schema: Schema) -> st.SearchStrategy[list[Any]]:
    """Lists of few items; those of a set or a map have each value or key once."""
    keys, fields = schema.get("x-kubernetes-list-map-keys"), schema["items"].get("properties", {})
    least, most = schema.get("minItems", 0), min(schema["maxItems"], 3)
    if not keys:
        unique = schema["x-kubernetes-list-type"] == "set"
        return st.lists(instances(schema["items"]), min_size=least, max_size=most, unique=unique)
    defaults = {key: fields[key].get("default") for key in keys}
    return st.lists(
        instances(schema["items"]),
        min_size=least,
        max_size=most,
        unique_by=lambda item: tuple((defaults | item)[key] for key in keys),
    )


def _integers(schema: Schema) -> st.SearchStrategy[int]:
    low, high = schema["minimum"], schema.get("maximum", 2**63 - 1 if schema.get("format") == "int64" else 2**31 - 1)
    return st.one_of(st.integers(low, min(high, low + 100)), st.integers(low, high), st.just(high))


_MAKERS: Final[dict[str, Callable[[Schema], st.SearchStrategy[Any]]]] = {
    "boolean": lambda _: st.booleans(),
    "integer": _integers,
    "string": texts,
    "array": _lists,
    "object": _objects,
}


def specs(kind: str) -> st.SearchStrategy[Any]:
    """Specs that satisfy the schema of a kind, and for a server its rule about profiles."""
    found = instances(SCHEMAS[kind]["properties"]["spec"])
    if kind != SERVER:
        return found

    def with_one_profile(spec: dict[str, Any], inline: bool) -> dict[str, Any]:
        spec.pop("profileRef" if inline else "profile", None)
        spec.setdefault("profile" if inline else "profileRef", {} if inline else {"name": "p"})
        return spec

    return st.builds(with_one_profile, found, st.booleans())


SPECS: Final = {kind: specs(kind) for kind in SCHEMAS}


def wrapped(kind: str, spec: Any) -> dict[str, Any]:
    """An object with a spec."""
    return FRAMES[kind] | {"spec": spec}


def parsed(kind: str, spec: Any) -> Any:
    """A spec as its model."""
    return PARSERS[kind](wrapped(kind, spec)).spec


def problems(kind: str, spec: Any) -> tuple[Problem, ...]:
    """What the models have against a spec; nothing where they take it."""
    try:
        parsed(kind, spec)
    except InvalidInput as error:
        return error.problems
    return ()


def written(spec: Any) -> Any:
    """A model as it is sent to the API server."""
    return spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def mended(kind: str, spec: Any) -> Any:
    """A spec without what the models refuse in it: a valid one with as much in it as possible."""
    spec = copy.deepcopy(spec)
    for _ in range(100):
        found = problems(kind, spec)
        if not found:
            return spec
        for problem in found:
            _drop(spec, [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", problem.path)[1:]])
    raise AssertionError(f"cannot be mended: {found}")


def _drop(spec: dict[str, Any], path: list[str | int]) -> None:
    """Removes what is at a path, or what should have it: the innermost thing that is there and may be left out."""
    holders: list[tuple[Any, str | int]] = []
    value: Any = spec
    for part in path:
        if not (part in value if isinstance(value, dict) else isinstance(part, int) and part < len(value)):
            break
        holders.append((value, part))
        value = value[part]
    for holder, part in reversed(holders):
        if holder is spec and part == "profile" and spec["profile"]:
            spec["profile"] = {}
            return
        if holder is not spec or part not in ("model", "profile", "profileRef"):
            del holder[part]
            return
    # Nothing is at the path: it is what has a default, against something else that was given.
    spec.get("model", {}).pop("maxModelLen", None)
    spec.pop("backend", None)


def sites(schema: Schema, value: Any, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Paths of everything inside a value, and of itself, with their schemas."""
    yield path, schema
    if isinstance(value, dict):
        for key, child in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if inner:
                yield from sites(inner, child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from sites(schema["items"], child, (*path, index))


_WRONG: Final = (True, -1, 0, 2**70, 1.5, "", "x" * 5000, "-3ms", "5 parsec", "Nothing", [], {}, {"x": 1}, [[]], "5")


def wrongs(schema: Schema, value: Any) -> list[Any]:
    """Values that are near a value and, most of them, not what its schema says."""
    near: list[Any] = list(_WRONG)
    if isinstance(value, str):
        near += [f"{value} ", f"{value}\n", f" {value}", f"{value}é", value.swapcase()]
        near += ["x" * (schema["maxLength"] + 1)] if "maxLength" in schema else []
    if isinstance(value, int) and not isinstance(value, bool):
        low, high = schema["minimum"], schema.get("maximum", 2**31 - 1)
        near += [low - 1, high + 1, 2**31, 2**63, str(value), value + 0.5]
    if isinstance(value, list) and value:
        near += [value * (schema["maxItems"] // len(value) + 1), value[:-1], [*value, True], {"0": value[0]}]
    if isinstance(value, dict):
        near += [{**value, "surplus": 1}, [value]]
        near += [{name: inner for name, inner in value.items() if name != gone} for gone in value]
        near += [{str(n): "x" for n in range(schema["maxProperties"] + 1)}] if "maxProperties" in schema else []
    return near


def replaced(spec: Any, path: Path, value: Any) -> Any:
    """A spec with another value at a path."""
    holder: Any = {"spec": copy.deepcopy(spec)}
    root, whole = holder, ("spec", *path)
    for key in whole[:-1]:
        holder = holder[key]
    holder[whole[-1]] = value
    return root["spec"]


@st.composite
def mutants(draw: st.DrawFn, kind: str) -> tuple[Any, Path]:
    """A valid spec with something else in one place, and the place."""
    spec = mended(kind, draw(SPECS[kind]))
    path, schema = draw(st.sampled_from(list(sites(SCHEMAS[kind]["properties"]["spec"], spec))))
    value = spec
    for key in path:
        value = value[key]
    return replaced(spec, path, draw(st.sampled_from(wrongs(schema, value)))), path


def dotted(path: Path) -> str:
    """A path as the models write it."""
    return "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
