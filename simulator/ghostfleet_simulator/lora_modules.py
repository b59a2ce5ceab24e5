"""`--lora-modules` as vLLM's command line has it: `name=path`, or a JSON object, for each adapter.

Source: vLLM 0.33 entrypoints/common/cli_args.py, `LoRAParserAction`; llm-d-inference-sim takes it without a path, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from ghostfleet_simulator.problems import InvalidInput, Problem

_FIELDS: Final = {"name": "name", "path": "path", "base_model_name": "baseModelName", "is_3d_lora_weight": None}
"""vLLM's fields and what they are called in the configuration; None: it means nothing here."""


def adapters_of(words: Iterable[str], source: str) -> list[dict[str, Any]]:
    """The adapters that the words name, to be validated. Raises `InvalidInput` with `source` for a path."""
    return [_adapter(word, source) for word in words if word]


def _adapter(word: str, source: str) -> dict[str, Any]:
    if "=" in word and "," not in word:
        name, _, path = word.partition("=")
        return {"name": name, "path": path}
    try:
        found = json.loads(word)
    except ValueError:
        raise InvalidInput([Problem(source, f"{word!r} is neither name=path nor a JSON object")]) from None
    if not isinstance(found, dict) or not found.keys() <= _FIELDS.keys() or "name" not in found:
        allowed = ", ".join(_FIELDS)
        raise InvalidInput([Problem(source, f"{word} must be an object with a name; its fields can be {allowed}")])
    return {key: found[field] for field, key in _FIELDS.items() if key and found.get(field) is not None}
