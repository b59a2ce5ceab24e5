"""The ConfigMap of a server: how what it holds is written down and read; pure.

`server.json` is what pods read and follow. `rollout.json`, there only while a document is on its way to all pods or was
taken back, is the operator's own: pods have it among their files and do not look at it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from ghostfleet_operator.kinds.pod import RESERVED_PREFIX
from ghostfleet_operator.plan.observed import DOCUMENT_FILE
from ghostfleet_operator.plan.waves import Canary, Member, Rejected, Truth
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.problems import InvalidInput

REVISION_ANNOTATION: Final = f"{RESERVED_PREFIX}revision"
HASH_ANNOTATION: Final = f"{RESERVED_PREFIX}hash"
FILE_ANNOTATION: Final = f"{RESERVED_PREFIX}document"
"""Key of the document that a pod reads: on a ConfigMap the newest one's, on a pod its own. Without it the usual one."""

_STATE_FILE: Final = "rollout.json"
_REJECTED: Final = TypeAdapter(Rejected)
_MEMBERS: Final = TypeAdapter(dict[str, Member])


def annotations_of(truth: Truth) -> dict[str, str]:
    """Annotations of the ConfigMap."""
    found = {REVISION_ANNOTATION: str(truth.stable.revision), HASH_ANNOTATION: truth.stable.hash}
    return found | ({FILE_ANNOTATION: truth.file} if truth.file != DOCUMENT_FILE else {})


def data_of(truth: Truth) -> dict[str, str]:
    """Data of the ConfigMap."""
    files = {key: _text(document.to_json()) for key, document in {**truth.kept, truth.file: truth.stable}.items()}
    state: dict[str, Any] = {}
    if canary := truth.canary:
        state["canary"] = {
            "document": canary.document.to_json(),
            "began": canary.began.isoformat(),
            "step": canary.step,
            "members": _MEMBERS.dump_python(dict(canary.members), mode="json"),
            "held": canary.held.isoformat() if canary.held else None,
        }
    if truth.rejected:
        state["rejected"] = _REJECTED.dump_python(truth.rejected, mode="json")
    return files | ({_STATE_FILE: _text(state)} if state else {})


def truth_of(config_map: Mapping[str, Any]) -> Truth | None:
    """What a ConfigMap holds; None where it has no document that can be read.

    What else cannot be read counts as not being there: a wave without a record is known by its pods' revisions.
    """
    data = config_map.get("data") or {}
    file = (config_map["metadata"].get("annotations") or {}).get(FILE_ANNOTATION, DOCUMENT_FILE)
    documents = {key: _document(text) for key, text in data.items() if key != _STATE_FILE}
    stable = documents.pop(file, None)
    if stable is None or stable.revision is None:
        return None
    canary, rejected = _state(data.get(_STATE_FILE, "{}"))
    kept = {key: document for key, document in documents.items() if document and document.revision is not None}
    return Truth(stable, canary, rejected, file, kept)


def _state(text: str) -> tuple[Canary | None, Rejected | None]:
    try:
        state = json.loads(text)
        rejected = _REJECTED.validate_python(state["rejected"]) if "rejected" in state else None
        return _canary(state["canary"]) if "canary" in state else None, rejected
    except (ValidationError, InvalidInput, ValueError, LookupError, TypeError):
        return None, None


def _canary(raw: Mapping[str, Any]) -> Canary:
    document, held = Document.parse(raw["document"]), raw["held"]
    return Canary(
        document,
        began=datetime.fromisoformat(raw["began"]),
        step=int(raw["step"]),
        members=_MEMBERS.validate_python(raw["members"]),
        held=datetime.fromisoformat(held) if held else None,
    )


def _document(text: str) -> Document | None:
    try:
        return Document.parse(json.loads(text))
    except (InvalidInput, ValueError):
        return None


def _text(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
