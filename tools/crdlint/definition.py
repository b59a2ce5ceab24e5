"""Rules about a CRD as a whole: names, columns, subresources, conditions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tools.crdlint.model import Crd, Finding, Schema

_PROTECTED: Final = re.compile(r"(^|\.)(k8s\.io|kubernetes\.io)$")
_CONDITION: Final = {
    "type": "string",
    "status": "string",
    "reason": "string",
    "message": "string",
    "lastTransitionTime": "string",
}
_COLUMN_TYPES: Final = {"integer": {"integer"}, "string": {"string"}, "date": {"string"}, "boolean": {"boolean"}}


def group_is_our_own(crd: Crd) -> Iterator[Finding]:
    """The group is a domain of the project; those of Kubernetes itself need its approval."""
    group = crd.spec["group"]
    if "." not in group or _PROTECTED.search(group):
        yield Finding("spec.group", f"{group!r} is not a domain of the project")


def kind_and_resource_names(crd: Crd) -> Iterator[Finding]:
    """A kind is CamelCase; its list, plural and singular follow from it, in lower case."""
    names = crd.spec["names"]
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", crd.kind):
        yield Finding("spec.names.kind", f"{crd.kind!r} is not CamelCase")
    if names.get("listKind") != f"{crd.kind}List":
        yield Finding("spec.names.listKind", f"is not {crd.kind}List")
    if names.get("singular") != crd.kind.lower():
        yield Finding("spec.names.singular", f"is not {crd.kind.lower()}")
    if not re.fullmatch(r"[a-z][a-z0-9]*s", names["plural"]):
        yield Finding("spec.names.plural", f"{names['plural']!r} is not a plural in lower case")


def short_name_and_category(crd: Crd) -> Iterator[Finding]:
    """People type a short name, and list everything of a product by its category."""
    for key in ("shortNames", "categories"):
        values = crd.spec["names"].get(key) or []
        if not values:
            yield Finding(f"spec.names.{key}", "is missing")
        for value in values:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", value):
                yield Finding(f"spec.names.{key}", f"{value!r} is not in lower case")


def frame_of_an_object(crd: Crd) -> Iterator[Finding]:
    """An object has apiVersion, kind, metadata, spec and status, of which only spec is asked for."""
    for root in crd.roots:
        if list(root.get("properties", {})) != ["apiVersion", "kind", "metadata", "spec", "status"]:
            yield Finding("", "the top of an object is not apiVersion, kind, metadata, spec, status")
        if root.get("required") != ["spec"]:
            yield Finding("", "not exactly spec is required")


def status_is_a_subresource(crd: Crd) -> Iterator[Finding]:
    """Who writes the spec cannot write the status, and the other way round."""
    for version in crd.versions:
        if "status" not in version.get("subresources", {}):
            yield Finding(f"versions.{version['name']}.subresources", "status is missing")


def scale_points_to_numbers(crd: Crd) -> Iterator[Finding]:
    """The scale subresource reads and writes fields that exist, and has a selector for autoscalers."""
    wanted = {"specReplicasPath": "integer", "statusReplicasPath": "integer", "labelSelectorPath": "string"}
    for version in crd.versions:
        scale = version.get("subresources", {}).get("scale")
        for key, kind in wanted.items() if scale is not None else ():
            found = crd.find(scale.get(key, ""))
            if found is None or found.get("type") != kind:
                yield Finding(f"versions.{version['name']}.subresources.scale.{key}", f"is not the path of a {kind}")


def columns_show_fields(crd: Crd) -> Iterator[Finding]:
    """A column shows a field that exists, of the column's type, and says what it is; the last plain one is Age."""
    for version in crd.versions:
        columns = version.get("additionalPrinterColumns", [])
        for column in columns:
            place = f"versions.{version['name']}.columns.{column['name']}"
            if column["jsonPath"] == ".metadata.creationTimestamp":
                continue
            found = crd.find(column["jsonPath"])
            if found is None:
                yield Finding(place, f"{column['jsonPath']} is no field")
            elif "[?" not in column["jsonPath"] and found.get("type") not in _COLUMN_TYPES[column["type"]]:
                yield Finding(place, f"is a {column['type']}, its field a {found.get('type')}")
            if not column.get("description"):
                yield Finding(place, "has no description")
        plain = [column["name"] for column in columns if not column.get("priority")]
        if plain[-1:] != ["Age"]:
            yield Finding(f"versions.{version['name']}.columns", "the last plain column is not Age")


def conditions_as_everywhere(crd: Crd) -> Iterator[Finding]:
    """Conditions come first in the status, are merged by type and have the fields of metav1.Condition."""
    for root in crd.roots:
        status = root.get("properties", {}).get("status", {}).get("properties", {})
        if next(iter(status), None) != "conditions":
            yield Finding("status.conditions", "is not the first field of the status")
            continue
        conditions = status["conditions"]
        if conditions.get("x-kubernetes-list-map-keys") != ["type"]:
            yield Finding("status.conditions", "is not a map by type")
        item: Schema = conditions.get("items", {})
        found = {name: field.get("type") for name, field in item.get("properties", {}).items()}
        for name, kind in _CONDITION.items():
            if found.get(name) != kind or name not in item.get("required", ()):
                yield Finding(f"status.conditions[].{name}", f"is not a required {kind}")
        if found.get("observedGeneration") != "integer":
            yield Finding("status.conditions[].observedGeneration", "is not an integer")


def status_tells_its_generation(crd: Crd) -> Iterator[Finding]:
    """`observedGeneration` tells which spec a status is about."""
    found = crd.find(".status.observedGeneration")
    if found is None or (found.get("type"), found.get("format")) != ("integer", "int64"):
        yield Finding("status.observedGeneration", "is not an integer of format int64")


def status_asks_for_nothing(crd: Crd) -> Iterator[Finding]:
    """A status can be written in parts: nothing at its top is required, and nothing in it has a default."""
    for root in crd.roots:
        for name in root.get("properties", {}).get("status", {}).get("required", ()):
            yield Finding(f"status.{name}", "is required")
    for field in crd.fields:
        if field.in_status and "default" in field.schema:
            yield Finding(field.path, "has a default")


def status_has_no_phase(crd: Crd) -> Iterator[Finding]:
    """A phase is a state machine that cannot grow; conditions can."""
    for field in crd.fields:
        if field.in_status and field.name in ("phase", "state"):
            yield Finding(field.path, "is a phase; use conditions")


def rules_have_messages(crd: Crd) -> Iterator[Finding]:
    """A CEL rule says in one sentence what is allowed, and points to a field that exists."""
    schemas = [("", root) for root in crd.roots] + [(field.path, field.schema) for field in crd.fields]
    for path, schema in schemas:
        for rule in schema.get("x-kubernetes-validations", ()):
            text = rule.get("message") or rule.get("messageExpression")
            if not text:
                yield Finding(path, f"a rule without a message: {rule['rule']}")
            elif "\n" in text or len(text) > 200:
                yield Finding(path, f"the message of a rule is not one sentence: {text!r:.60}")
            inner: Schema | None = schema
            for part in rule.get("fieldPath", "").strip(".").split("."):
                inner = inner.get("properties", {}).get(part) if inner and part else inner
            if inner is None:
                yield Finding(path, f"a rule points to {rule['fieldPath']}, which is no field")


RULES: Final = (
    group_is_our_own,
    kind_and_resource_names,
    short_name_and_category,
    frame_of_an_object,
    status_is_a_subresource,
    scale_points_to_numbers,
    columns_show_fields,
    conditions_as_everywhere,
    status_tells_its_generation,
    status_asks_for_nothing,
    status_has_no_phase,
    rules_have_messages,
)
