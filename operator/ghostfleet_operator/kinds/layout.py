"""CRDs as YAML that is small and still can be read: a line for each field, and for an object one that opens it.

In block style a CRD of this depth is two fifths indentation and line breaks. A line has the type and limits of a field
first and what it means last, so a change of a field is a change of one line.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import yaml

from ghostfleet_operator.kinds.schema import Schema

_MARGIN: Final = 1
"""Columns before a field; what belongs to `spec` has to stand behind it."""


def to_lines(tree: dict[str, Any]) -> str:
    """A CRD of one version, or a part of it from the top, whose last entry is the schema."""
    plain = json.loads(json.dumps(tree))  # no object twice, so that YAML needs no anchors
    spec = plain.pop("spec")
    (version,) = spec.pop("versions")
    schema = version.pop("schema")["openAPIV3Schema"]
    margin = "\n" + " " * _MARGIN
    columns = f",{margin}".join(f"{{{_flat(column)}}}" for column in version.pop("additionalPrinterColumns"))
    head = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=sys.maxsize) if plain else ""
    return (
        f"{head}spec: {{{_flat(spec)},{margin}versions: [{{{_flat(version)},"
        f"{margin}additionalPrinterColumns: [{margin}{columns}],"
        f"{margin}schema: {{openAPIV3Schema: {_opened(schema, 0)}}}}}]}}\n"
    )


def _opened(schema: Schema, depth: int) -> str:
    """A schema, with a line for each field of it."""
    margin = "\n" + " " * (_MARGIN + depth)
    last = ("description", "items", "additionalProperties", "properties", "x-kubernetes-validations")
    parts = [_flat({key: value for key, value in schema.items() if key not in last})]
    if "description" in schema:
        parts.append(_flat({"description": schema["description"]}))
    if rules := schema.get("x-kubernetes-validations"):
        texts = [f"{{{_flat(rule)}}}" for rule in rules]
        parts.append(f"x-kubernetes-validations: [{f',{margin}'.join(texts)}]")
    parts += [f"{key}: {_opened(schema[key], depth)}" for key in ("items", "additionalProperties") if key in schema]
    if "properties" in schema:
        fields = [f"{margin}{name}: {_opened(field, depth + 1)}" for name, field in schema["properties"].items()]
        parts.append(f"properties: {{{','.join(fields)}}}")
    return f"{{{', '.join(filter(None, parts))}}}"


def _flat(mapping: Schema) -> str:
    """The entries of a mapping on one line."""
    text = yaml.safe_dump(mapping, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return text.strip()[1:-1]
