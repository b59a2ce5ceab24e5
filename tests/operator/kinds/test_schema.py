"""The models and the CRDs made from them accept the same objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from tests.operator.objects import raw_server
from tests.operator.schemas import (
    LATER,
    PARSERS,
    SCHEMAS,
    SPECS,
    VALIDATORS,
    dotted,
    mended,
    mutants,
    parsed,
    problems,
    strict,
    written,
)

from ghostfleet_operator.kinds import API_VERSION, parse_server, parse_status
from ghostfleet_operator.kinds.schema import NoSchemaError, Schema, structural
from ghostfleet_operator.kinds.server import LONGEST_NAME, NAME_PATTERN

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_model_writes_the_schema_accepts_and_the_model_reads_back(kind: str, data: st.DataObject) -> None:
    spec = data.draw(SPECS[kind])
    VALIDATORS[kind].validate(spec)
    found = parsed(kind, mended(kind, spec))
    VALIDATORS[kind].validate(written(found))
    assert parsed(kind, written(found)) == found


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_schema_refuses_the_model_refuses_with_the_path(kind: str, data: st.DataObject) -> None:
    spec, path = data.draw(mutants(kind))
    assume(not VALIDATORS[kind].is_valid(spec))
    told = [problem.path for problem in problems(kind, spec)]
    place = dotted(path)
    assert any(found.startswith(place) or place.startswith(found) for found in told), (place, told)


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_schema_accepts_and_the_model_refuses_breaks_a_rule_that_is_told(
    kind: str, data: st.DataObject
) -> None:
    """A rule of the API server's at that place, or one of those that the reference lists as the operator's."""
    spec = data.draw(SPECS[kind])
    for problem in problems(kind, spec):
        place = re.sub(r"\[\d+\]", "[]", problem.path)
        assert any(rule.covers(problem) for rule in LATER[kind]) or place in ruled_places(SCHEMAS[kind]), problem


def ruled_places(schema: Schema) -> set[str]:
    """Paths that a rule of the API server's may be about: the schema that has it, and the fields that it names."""
    found = set()
    for path, part in placed(schema, ""):
        for rule in part.get("x-kubernetes-validations", ()):
            names = re.findall(r"self((?:\.[a-zA-Z][a-zA-Z0-9]*)+)\b(?!\()", rule["rule"])
            found |= {path, *(f"{path}{name}" for name in names)}
    return found


def placed(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from placed(field, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from placed(schema["items"], f"{path}[]")


def every(schema: Schema) -> Iterator[Schema]:
    yield schema
    for field in schema.get("properties", {}).values():
        yield from every(field)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from every(schema[key])


def status(kind: str) -> Schema:
    found: Schema = SCHEMAS[kind]["properties"]["status"]
    return found


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
            assert part["x-kubernetes-list-type"] in ("atomic", "map", "set")
            for key in part.get("x-kubernetes-list-map-keys", []):
                assert key in part["items"]["required"] or "default" in part["items"]["properties"][key]
        if part["type"] == "integer":
            assert part.get("format") in ("int32", "int64") or "maximum" in part
        assert "default" not in part or part["type"] not in ("array", "object") or part is status(kind)


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
    """A server is made with one that says that nobody looked at it yet; nothing below it has a default."""
    schema = status(kind)
    assert next(iter(schema["properties"])) == "conditions"
    assert schema["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert "required" not in schema
    assert "phase" not in schema["properties"]
    assert not [part for part in every(schema) if "default" in part and part is not schema]


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
        "bytesPerToken": "128Ki",
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


def test_the_examples_can_be_applied_together() -> None:
    """`ghostfleet up -f examples` takes the folder, and `kubectl apply -f examples` overwrites none."""
    objects = [found for path in EXAMPLES.glob("*.yaml") for found in yaml.safe_load_all(path.read_text())]
    keys = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert sorted(keys) == sorted(set(keys))
