"""CRDs as YAML that is small and still can be read: a field without fields of its own is one line.

In block style a CRD of this depth is a third indentation; here a level is one column. A line has the type and limits of
a field first and what it means last, so a change of a field is a change of one line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml


class _Line(dict[str, Any]):
    """A mapping that is written as `{...}`."""


class _Row(list[Any]):
    """A list that is written as `[...]`."""


class _Dumper(yaml.SafeDumper):
    """Writes a `_Line` and a `_Row` as what they are, and a level of mappings as one column."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        # The keys of an item stand behind its "- ".
        self.best_indent = 2 if self.sequence_context else 1
        super().increase_indent(flow, indentless)


_Dumper.add_representer(_Line, lambda to, value: to.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True))
_Dumper.add_representer(_Row, lambda to, value: to.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True))


def to_lines(tree: object) -> str:
    """A CRD, or a part of it from the top, in its own order."""
    plain = json.loads(json.dumps(tree))  # no object twice, so that YAML needs no anchors
    return yaml.dump(_compact(plain), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)


def _compact(value: Any, key: str = "") -> Any:
    if isinstance(value, list):
        items = [_compact(item) for item in value]
        one_rule = key == "x-kubernetes-validations" and len(items) == 1
        return _Row(items) if one_rule or not any(isinstance(item, (dict, list)) for item in items) else items
    if not isinstance(value, dict):
        return value
    made = {name: _compact(item, name) for name, item in value.items()}
    if key == "properties" or not all(map(_fits, made.values())):
        return made
    meaning = {name: made.pop(name) for name in ("description",) if name in made}
    return _Line(made | meaning)


def _fits(value: object) -> bool:
    """Whether a value fits on the line of its field: a scalar, a few of them, or the schema of a plain item."""
    if isinstance(value, dict):
        return isinstance(value, _Line) and not any(isinstance(inner, dict) for inner in value.values())
    return not isinstance(value, list) or isinstance(value, _Row)
