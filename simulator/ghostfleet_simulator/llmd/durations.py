"""Durations as Go writes them: `4us`, `1h2m3.5s`, `-5ms`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE: Final = re.compile(rf"[+-]?(0|({_PART.pattern})+)")
_MOST_NS: Final = 2**63 - 1


def nanoseconds(text: str) -> int:
    """What a duration spells, parts of a nanosecond cut off; raises `ValueError` that says what is allowed."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write numbers with the units ns, us, ms, s, m, h, as in 1m2.5s")
    total = sum(int(Decimal(number) * _NS[unit]) for number, unit in _PART.findall(text))
    if total > _MOST_NS:
        raise ValueError(f"{text!r} is longer than 292 years")
    return -total if text.startswith("-") else total


def spelt(ns: int) -> str:
    """As Go's `time.Duration` prints it: `1m30s`, `1.5ms`, `0s`."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns < 10**9:
        unit = next((unit for unit in ("ms", "us", "ns") if ns >= _NS[unit]), "s")
        return sign + _plain(Decimal(ns) / _NS[unit]) + unit.replace("u", "µ")
    minutes, rest = divmod(ns, _NS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = _plain(Decimal(rest) / _NS["s"]) + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else sign + seconds


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
