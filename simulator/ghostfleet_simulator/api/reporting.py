"""What a request wants KV events to tell of it.

Source: vLLM 0.33 entrypoints/generate/base/serving.py (`_get_session_id`) and v1/request.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghostfleet_simulator.runtime.work import Reporting


def reporting(session_id: str | None, extra: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Reporting:
    """From the body's `session_id` and `vllm_xargs`, and the header `X-Session-ID`; the first of them that says it."""
    extra = extra or {}
    told = extra.get("session_id")
    session = session_id or headers.get("x-session-id") or (told if isinstance(told, str) else None)
    return Reporting(session or None, hits=extra.get("kv_cache_report_mode") == "full")
