"""Objects that `ghostfleet apply` put over those of a fleet's files; the later of the two writers counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostfleet_operator.local.objects import Key, Objects, Source
from ghostfleet_operator.local.state import write_atomically


def digest(source: Source | None) -> str | None:
    """Tells whether an object in a file is still the one that was overridden."""
    if source is None:
        return None
    return hashlib.sha256(json.dumps(source.raw, sort_keys=True, default=str).encode()).hexdigest()


def put(path: Path, applied: Objects, files: Objects) -> None:
    """Adds `applied` to what was applied before; `files` is what the files say now."""
    entries = _entries(path)
    for key, source in applied.sources.items():
        entries["/".join(key)] = {"object": source.raw, "over": digest(files.sources.get(key))}
    write_atomically(path, json.dumps(entries, indent=1, default=str) + "\n", mode=0o600)


def over(path: Path, files: Objects) -> Objects:
    """What was applied on top of the files; an object that was edited in a file since then is the file's."""
    found = Objects()
    for name, entry in _entries(path).items():
        kind, namespace, object_name = name.split("/", 2)
        key = Key(kind, namespace, object_name)
        if entry["over"] == digest(files.sources.get(key)):
            found.sources[key] = Source("applied", entry["object"])
    return found.over(files)


def _entries(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
