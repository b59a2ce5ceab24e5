"""Argo CD's health checks, run as Argo CD runs them: in Lua 5.1, with the object as the global `obj`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lupa.lua51 import LuaRuntime

CHECKS = Path(__file__).parents[1] / "docs" / "argocd"


def health(kind: str, obj: dict[str, Any]) -> tuple[str, str]:
    """Status and message that the check of a kind gives an object."""
    runtime = LuaRuntime(unpack_returned_tuples=True)
    runtime.globals().obj = _plain(runtime, obj)
    answer = runtime.execute((CHECKS / kind / "health.lua").read_text())
    return answer.status, answer.message


def _plain(runtime: LuaRuntime, value: Any) -> Any:
    """Lua tables all the way down: what is left a Python object behaves otherwise."""
    if isinstance(value, dict):
        return runtime.table_from({key: _plain(runtime, each) for key, each in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_plain(runtime, each) for each in value])
    return value
