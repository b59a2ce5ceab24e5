"""YAML and JSON files as people write them, read strictly: no key twice, no dates, every problem with its place."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from ghostfleet_simulator.problems import InvalidInput, Problem

LARGEST_FILE: Final = 16 * 2**20
"""Bytes of the largest file that is read."""


class _Strict(yaml.SafeLoader):
    """YAML as the API server takes it: a key may not be repeated, and `2024-01-01` is a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute, replaced and not changed
        first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are strings, each once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", key.start_mark)
            seen.add(name)
        return {k if isinstance(k, str) else str(k): v for k, v in super().construct_mapping(node, deep).items()}


def parse_documents(text: str) -> list[object]:
    """The documents in a YAML (or JSON) text, empty ones left out; raises `InvalidInput` with the line."""
    try:
        return [document for document in yaml.load_all(text, Loader=_Strict) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidInput([Problem(where, f"not valid YAML: {error.problem or error.context}")]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInput([Problem("", f"not valid YAML: {str(error).splitlines()[0]}")]) from None


def read_documents(path: Path) -> list[object]:
    """The documents in a file; raises `InvalidInput` whose paths do not name the file."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InvalidInput([Problem("", f"cannot be read: {error.strerror}")]) from None
    if len(raw) > LARGEST_FILE:
        raise InvalidInput([Problem("", f"larger than {LARGEST_FILE} bytes")])
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput([Problem("", f"not UTF-8: {error.reason} at byte {error.start}")]) from None
    return parse_documents(text)


def read_mapping(path: Path) -> dict[str, Any]:
    """The one mapping in a file; raises `InvalidInput` whose paths do not name the file."""
    documents = read_documents(path)
    if len(documents) > 1:
        raise InvalidInput([Problem("", f"holds {len(documents)} YAML documents, where one is allowed")])
    content = documents[0] if documents else {}
    if not isinstance(content, dict):
        raise InvalidInput([Problem("", "must hold a mapping from names to values")])
    return content
