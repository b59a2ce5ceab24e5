"""The models and the CRDs made from them accept the same objects."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from tests.operator.objects import raw_cluster_profile, raw_profile, raw_server

from ghostfleet_operator.kinds import API_VERSION, parse_profile, parse_server, parse_status
from ghostfleet_operator.kinds.crd import KINDS, openapi
from ghostfleet_operator.kinds.schema import NoSchemaError, Schema, structural
from ghostfleet_operator.kinds.server import LONGEST_NAME, NAME_PATTERN
from ghostfleet_simulator.problems import InvalidInput

EXAMPLES = Path(__file__).parents[3] / "examples"
SCHEMAS = {kind.name: openapi(kind) for kind in KINDS}
FRAMES = {found["kind"]: found for found in (raw_server(), raw_profile(), raw_cluster_profile())}
PARSERS = dict.fromkeys(FRAMES, parse_profile) | {"SimulatedModelServer": parse_server}


def strict(schema: Schema) -> Schema:
    """A structural schema as a JSON schema that refuses what strict field validation of the API server refuses."""
    plain = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "description"}
    if schema.get("x-kubernetes-int-or-string"):
        plain["type"] = ["integer", "string"]
    if "properties" in plain:
        plain["properties"] = {name: strict(field) for name, field in plain["properties"].items()}
        plain["additionalProperties"] = False
    elif "additionalProperties" in plain:
        plain["additionalProperties"] = strict(plain["additionalProperties"])
    if "items" in plain:
        plain["items"] = strict(plain["items"])
    return plain


VALIDATORS = {
    name: jsonschema.Draft7Validator(strict(schema["properties"]["spec"])) for name, schema in SCHEMAS.items()
}


def texts(schema: Schema) -> st.SearchStrategy[str]:
    """Strings that satisfy the pattern and the lengths of a schema."""
    if "pattern" not in schema:
        return st.text(min_size=schema.get("minLength", 0), max_size=min(schema["maxLength"], 20))
    pattern = re.compile(schema["pattern"])
    found = st.from_regex(schema["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii"))
    return found.filter(lambda text: len(text) <= schema["maxLength"] and bool(pattern.fullmatch(text)))


def instances(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that a structural schema accepts, the small and usual ones first."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.one_of(st.integers(0, 10_000), texts(schema))
    return MAKERS[schema["type"]](schema)


def objects(schema: Schema) -> st.SearchStrategy[Any]:
    """Maps, or objects with all of the required fields and some of the others."""
    if "additionalProperties" in schema:
        keys = st.sampled_from(["app", "llm-d.ai/role", "example.com/a.b-c"])
        return st.dictionaries(keys, instances(schema["additionalProperties"]), max_size=3)
    required = set(schema.get("required", []))
    fields = {name: instances(field) for name, field in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: value for name, value in fields.items() if name in required},
        optional={name: value for name, value in fields.items() if name not in required},
    )


MAKERS: dict[str, Callable[[Schema], st.SearchStrategy[Any]]] = {
    "boolean": lambda _: st.booleans(),
    "integer": lambda schema: st.integers(schema["minimum"], schema.get("maximum", 2**31 - 1)),
    "string": texts,
    "array": lambda schema: st.lists(
        instances(schema["items"]), min_size=schema.get("minItems", 0), max_size=min(schema["maxItems"], 3)
    ),
    "object": objects,
}


def specs(kind: str) -> st.SearchStrategy[Any]:
    """Specs that satisfy the schema of a kind, and for a server its rules about profile and cache."""
    found = instances(SCHEMAS[kind]["properties"]["spec"])
    if kind != "SimulatedModelServer":
        return found

    def fitting(spec: dict[str, Any], inline: bool) -> dict[str, Any]:
        spec.pop("profileRef" if inline else "profile", None)
        spec.setdefault("profile" if inline else "profileRef", {} if inline else {"name": "p"})
        spec["model"]["maxModelLen"] = min(spec["model"].get("maxModelLen", 100), 100)
        spec["kvCache"] = {"blocks": 100, **spec.get("kvCache", {})}
        return spec

    return st.builds(fitting, found, st.booleans())


SPECS = {kind: specs(kind) for kind in SCHEMAS}


def wrapped(kind: str, spec: Any) -> dict[str, Any]:
    return FRAMES[kind] | {"spec": spec}


def parsed(kind: str, spec: Any) -> Any:
    return PARSERS[kind](wrapped(kind, spec))


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_model_writes_the_schema_accepts_and_the_model_reads_back(kind: str, data: st.DataObject) -> None:
    spec = data.draw(SPECS[kind])
    VALIDATORS[kind].validate(spec)
    try:
        found = parsed(kind, spec)
    except InvalidInput:
        assume(False)  # a rule across fields that the schema does not know
    written = found.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    VALIDATORS[kind].validate(written)
    assert parsed(kind, written).spec == found.spec


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside a value, and of itself."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


WRONG = (None, True, -1, 0, 2**70, 1.5, "", "x" * 5000, "-3ms", "5 parsec", "Nothing", [], {}, {"x": 1}, [[]], "5")


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_schema_refuses_the_model_refuses(kind: str, data: st.DataObject) -> None:
    spec = copy.deepcopy(data.draw(SPECS[kind]))
    path = data.draw(st.sampled_from(list(places(spec))))
    wrong = data.draw(st.sampled_from(WRONG))
    holder = {"spec": spec}
    for key in ("spec", *path)[:-1]:
        holder = holder[key]
    last = ("spec", *path)[-1]
    if isinstance(wrong, dict) and isinstance(holder[last], dict):
        holder[last] |= {"surplus": 1}
    else:
        holder[last] = wrong
    spec = wrong if not path else spec
    assume(not VALIDATORS[kind].is_valid(spec))
    # The API server drops nulls before it validates; so does a model where the field may be left out.
    assume(wrong is not None)
    with pytest.raises(InvalidInput):
        parsed(kind, spec)


def every(schema: Schema) -> Iterator[Schema]:
    yield schema
    for field in schema.get("properties", {}).values():
        yield from every(field)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from every(schema[key])


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schemas_are_structural_and_bounded(kind: str) -> None:
    """What the API server and its conventions ask for: no references, unions, tuples, titles, nulls or floats."""
    forbidden = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "prefixItems", "const", "nullable", "uniqueItems"}
    for part in every(SCHEMAS[kind]):
        assert not forbidden & part.keys()
        assert part.get("additionalProperties") is not False
        if part.get("x-kubernetes-int-or-string"):
            assert "type" not in part
            continue
        assert part["type"] in ("object", "array", "string", "integer", "boolean")
        if part["type"] == "array":
            assert part["maxItems"]
            assert part["x-kubernetes-list-type"] in ("atomic", "map")
            for key in part.get("x-kubernetes-list-map-keys", []):
                assert key in part["items"]["required"] or "default" in part["items"]["properties"][key]
        if part["type"] == "integer":
            assert part["format"] in ("int32", "int64")
        assert "default" not in part or part["type"] not in ("array", "object")


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_field_is_described_and_a_required_one_has_no_default(kind: str) -> None:
    for part in every(SCHEMAS[kind]):
        for name, field in part.get("properties", {}).items():
            assert name == "metadata" or field["description"], name
            assert not (name in part.get("required", []) and "default" in field), name
        assert (
            part.get("type") != "object"
            or "properties" in part
            or "additionalProperties" in part
            or part == {"type": "object"}
        )


@pytest.mark.parametrize("kind", SCHEMAS)
def test_status_begins_with_conditions_and_asks_for_nothing(kind: str) -> None:
    status = SCHEMAS[kind]["properties"]["status"]
    assert next(iter(status["properties"])) == "conditions"
    assert status["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert "required" not in status
    assert "phase" not in status["properties"]
    assert not [part for part in every(status) if "default" in part]


def test_defaults_in_the_schema_are_those_of_the_simulator() -> None:
    """An object whose defaults the API server filled in means what it meant without them."""
    filled = raw_server()
    spec = SCHEMAS["SimulatedModelServer"]["properties"]["spec"]

    def fill(schema: Schema, value: dict[str, Any]) -> None:
        for name, field in schema["properties"].items():
            if "default" in field:
                value.setdefault(name, field["default"])
            elif isinstance(value.get(name), dict) and "properties" in field:
                fill(field, value[name])

    for block in ("scheduling", "kvCache", "answers", "networking", "pod"):
        filled["spec"][block] = {}
    fill(spec, filled["spec"])
    assert filled["spec"]["kvCache"] == {
        "blockSize": 16,
        "blocks": 16384,
        "enablePrefixCaching": True,
        "prefixCachingHashAlgo": "sha256",
    }
    assert parse_server(filled).spec == parse_server(raw_server()).spec


def test_the_rule_about_names_is_the_models() -> None:
    (rule,) = SCHEMAS["SimulatedModelServer"]["x-kubernetes-validations"]
    assert str(LONGEST_NAME) in rule["rule"]
    assert NAME_PATTERN in rule["rule"]


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (str, "maximum length"),
        (tuple[bool, ...], "maximum length"),
        (dict[str, bool], "maximum size"),
        (int, "minimum and a maximum"),
        (float, "no structural schema"),
        (Annotated[int, Field(ge=0, le=1)] | bool, "union"),
    ],
)
def test_a_field_that_an_api_server_could_not_price_is_an_error(annotation: Any, why: str) -> None:
    model = type("Bad", (BaseModel,), {"__annotations__": {"field": annotation}})
    with pytest.raises(NoSchemaError, match=why):
        structural(model)


def test_times_are_strings_with_a_format() -> None:
    class Timed(BaseModel):
        at: datetime | None = None

    assert structural(Timed)["properties"]["at"] == {"type": "string", "format": "date-time"}


def test_a_status_of_the_operator_satisfies_its_schema() -> None:
    validator = jsonschema.Draft7Validator(strict(SCHEMAS["SimulatedModelServer"]["properties"]["status"]))
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    raw = {"conditions": [condition], "endpoints": [{"address": "10.0.0.1", "port": 8000, "pod": "p", "rank": 0}]}
    written = parse_status({"status": raw}).model_dump(mode="json", by_alias=True, exclude_none=True)
    validator.validate(written)
    assert written == raw


def test_the_api_version_is_the_kinds_own() -> None:
    assert {schema["properties"]["apiVersion"]["description"] for schema in SCHEMAS.values()} == {f"`{API_VERSION}`."}


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_accepted_by_a_cluster_and_a_laptop_alike(path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text()))
    profiles = {found["metadata"]["name"] for found in objects if found["kind"] == "LatencyProfile"}
    for found in objects:
        VALIDATORS[found["kind"]].validate(found["spec"])
        spec = PARSERS[found["kind"]](found).spec
        reference = getattr(spec, "profile_ref", None)
        assert reference is None or reference.name in profiles
