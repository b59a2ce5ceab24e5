"""Images, audio and video in requests, as far as disaggregated encoding needs them.

Nothing is fetched or decoded: an item is known by a hash of what stands in the request, and in a chat it is a marker
with that hash in the prompt, so that blocks are shared by prompts with the same item only.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

TYPES: Final = frozenset(
    {"audio_embeds", "audio_url", "image_embeds", "image_pil", "image_url", "input_audio", "input_image"}
    | {"video_embeds", "video_url"}
)
"""Types of parts that are no text (vLLM 0.33 renderers/chat_utils/chat_message.py, MM_PARSER_MAP)."""

_SHOWN: Final = 16
_PARAMS: Final = {
    "peer_host": "DUMMY",
    "peer_port": 1234,
    "size_bytes": 2359296,
    "nixl_agent_metadata_b64": b64encode(b"NIXL_METADATA_PLACEHOLDER").decode(),
}
"""As llm-d-inference-sim tells it. Nobody can fetch an encoding, since there is none."""


def type_of(part: Any) -> str | None:
    """The type of a content part that is no text; vLLM takes a part without a `type` by its keys."""
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type", next((key for key in part if key in TYPES), None))
    return kind if isinstance(kind, str) and kind in TYPES else None


def hash_of(part: Mapping[str, Any]) -> str:
    """64 hexadecimal digits that stand for the content of a part: `uuid`, or what it holds."""
    kind = type_of(part) or ""
    content = part.get("uuid") or part.get(kind)
    return hashlib.sha256(json.dumps([kind, content], sort_keys=True).encode()).hexdigest()


def marker(part: Mapping[str, Any]) -> str:
    """What stands for a part in a prompt."""
    kind = (type_of(part) or "").removeprefix("input_").partition("_")[0]
    return f"<{kind} {hash_of(part)[:_SHOWN]}>"


def hashes_in(messages: Sequence[Any]) -> tuple[str, ...]:
    """Hashes of all items of a conversation that was checked, each once."""
    return tuple(dict.fromkeys(_hashes(messages)))


def _hashes(messages: Sequence[Any]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        for part in () if content is None or isinstance(content, str) else content:
            if type_of(part):
                yield hash_of(part)


def ec_transfer_params(encoded: Sequence[str]) -> dict[str, Any] | None:
    """The `ec_transfer_params` of an answer by a server that has encoded these items; none without items."""
    return dict.fromkeys(encoded, _PARAMS) or None
