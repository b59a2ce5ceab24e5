"""Whether a live object still is what was applied, and where it is not; pure.

An API server adds defaults and other people's fields to an object, so only the fields that are wanted are compared.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from ghostfleet_operator.reconcile.api import Object

APPLIED_ANNOTATION: Final = "ghostfleet.dev/applied"
"""Hash of the object as it was last applied: a field that is no longer wanted shows in nothing else."""

# Lists whose elements are told apart by keys, as server-side apply merges them; the first that an element has count.
_KEYS: Final = (
    *(("mountPath",), ("containerPort", "protocol"), ("port", "protocol")),
    *(("topologyKey", "whenUnsatisfiable"), ("uid",), ("name",)),
)
# Maps that server-side apply replaces whole: what somebody added to one is drift.
_ATOMIC: Final = frozenset({"selector", "nodeSelector"})
_ABSENT: Final = object()


def digest(wanted: Object) -> str:
    """Hash of a wanted object."""
    text = json.dumps(wanted, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def marked(wanted: Object) -> Object:
    """A wanted object with its own hash in an annotation."""
    meta = wanted["metadata"]
    notes = {**(meta.get("annotations") or {}), APPLIED_ANNOTATION: digest(wanted)}
    return {**wanted, "metadata": {**meta, "annotations": notes}}


def mark_of(live: Object) -> str | None:
    """The hash that a live object was applied with."""
    return (live["metadata"].get("annotations") or {}).get(APPLIED_ANNOTATION)


def projected(live: Any, wanted: Any) -> Any:
    """The part of `live` that `wanted` speaks about, in the shape of `wanted`; equal to it where nothing drifted."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return {
            key: live[key] if key in _ATOMIC else projected(live[key], value)
            for key, value in wanted.items()
            if key in live
        }
    if isinstance(wanted, list) and isinstance(live, list):
        if all(isinstance(item, dict) for item in (*wanted, *live)) and all(map(_key, wanted)):
            pairs = [(_counterpart(item, live), item) for item in wanted]
            return [projected(found, item) for found, item in pairs if found is not _ABSENT]
        if len(wanted) == len(live):
            return [projected(found, item) for found, item in zip(live, wanted, strict=True)]
    return live


def differences(live: Any, wanted: Any, path: str = "") -> list[str]:
    """Dotted paths at which a projection differs from what is wanted."""
    if isinstance(wanted, dict) and isinstance(live, dict) and live.keys() <= wanted.keys():
        return [
            found
            for key, value in wanted.items()
            for found in differences(live.get(key, _ABSENT), value, f"{path}.{key}" if path else key)
        ]
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        pairs = enumerate(zip(live, wanted, strict=True))
        return [found for n, (a, b) in pairs for found in differences(a, b, f"{path}[{_name(b, n)}]")]
    return [] if live == wanted else [path]


def _key(item: dict[str, Any]) -> dict[str, Any] | None:
    return next(({key: item[key] for key in keys if key in item} for keys in _KEYS if keys[0] in item), None)


def _name(item: Any, position: int) -> Any:
    return item.get("name", position) if isinstance(item, dict) else position


def _counterpart(item: dict[str, Any], live: list[dict[str, Any]]) -> Any:
    key = _key(item)
    return next((other for other in live if key and key.items() <= other.items()), _ABSENT)
