"""The reference of all fields as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ghostfleet_operator.kinds.meta import API_VERSION
from ghostfleet_operator.kinds.rules import Later
from ghostfleet_operator.kinds.schema import Schema, fields
from ghostfleet_operator.kinds.server import Effect, ServerSpec
from ghostfleet_simulator.config import LIVE_FIELDS

_LIVE: Final = "live"
_RESTART: Final = "restart"
_INTRODUCTION: Final = f"""\
<!-- Made from the models by `make crds`; do not edit. -->
# Custom resources

All kinds belong to `{API_VERSION}`; `kubectl get ghostfleet` lists all their objects. Unknown fields are refused by
`kubectl apply` and by `ghostfleet up`. Quantities are strings with units (`12.5ms`, `1.5s`; a bare number is
milliseconds) and probabilities are strings (`"0.05"`, `"5%"`).

What a change of a field does to pods that run: *live* fields reach every pod at once, without a restart; *restart*
fields change the pod template, so that the Deployment replaces its pods.
"""
_RULES: Final = "Rules, which the API server checks:\n\n"
_LATER: Final = """\
What an API server cannot tell is checked by `ghostfleet up`, which refuses the file, and by the operator, which says
so in the condition `Ready` of a server or `Valid` of a profile, with the reason `Invalid` and the path, and changes
nothing that runs:

"""


def effects() -> dict[str, str]:
    """What a change of each block of a server's spec does to running pods."""
    found = {}
    for name, info in ServerSpec.model_fields.items():
        key = info.alias or name
        marked = [mark.text for mark in info.metadata if isinstance(mark, Effect)]
        found[key] = marked[0] if marked else _LIVE if key in (*LIVE_FIELDS, "profileRef") else _RESTART
    return found


@dataclass(frozen=True, slots=True)
class Page:
    """What is to be told of a kind."""

    kind: str
    scope: str
    schema: Schema
    later: Sequence[Later]


def reference(pages: Sequence[Page]) -> str:
    """The page of all kinds."""
    parts = [_INTRODUCTION]
    for number, page in enumerate(pages):
        spec, status = page.schema["properties"]["spec"], page.schema["properties"]["status"]
        parts.append(f"## {page.kind}\n\n{page.schema['description']}\n\n{page.scope}\n")
        twin = next((other.kind for other in pages[:number] if other.schema["properties"]["spec"] == spec), None)
        if twin:
            parts.append(f"`spec` and `status` have the fields of a [{twin}](#{twin.lower()}).\n")
            continue
        parts.append("### spec\n\n" + _table(spec, effects() if page.kind == "SimulatedModelServer" else {}))
        parts.append(_RULES + "".join(f"* {line}\n" for line in dict.fromkeys(_rules(page.schema, ""))))
        parts.append(_LATER + "".join(f"* {text}\n" for text in dict.fromkeys(rule.text for rule in page.later)))
        parts.append("### status\n\n" + _table(status, None))
    return "\n".join(parts)


def _rules(schema: Schema, path: str) -> Iterator[str]:
    """The rules of the API server, each with the path that it is about."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield f"`{path}`: {rule['message']}" if path else rule["message"]
    for name, field in schema.get("properties", {}).items():
        yield from _rules(field, f"{path}.{name}" if path else name)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _rules(schema[key], f"{path}[]" if key == "items" else path)


def _table(schema: Schema, effect: Mapping[str, str] | None) -> str:
    """A table of all fields; `effect` by top-level block ({} for all live), None for no such column."""
    changes = effect is not None
    lines = [
        "| field | type | default | " + ("change | " if changes else "") + "meaning |",
        "| --- | --- | --- | " + ("--- | " if changes else "") + "--- |",
    ]
    for path, field, required in fields(schema):
        default = "required" if required else code(field["default"]) if "default" in field else ""
        cells = [f"`{path}`", type_text(field), default]
        if effect is not None:
            cells.append(effect.get(path.split(".")[0].removesuffix("[]"), _LIVE))
        cells.append(" ".join(field.get("description", "").split()).replace("|", "\\|"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def code(value: object) -> str:
    """A value as code."""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def type_text(field: Schema) -> str:
    """The type of a field in a few words, with its limits."""
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {type_text(field['items'])}, at most {field['maxItems']}"
    if field["type"] == "object":
        return "map" if "additionalProperties" in field else "object"
    if field["type"] == "integer":
        low, high = field.get("minimum"), field.get("maximum")
        return f"integer, {low} to {high}" if high is not None else f"integer, at least {low}"
    return "time" if field.get("format") == "date-time" else str(field["type"])
