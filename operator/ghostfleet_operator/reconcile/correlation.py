"""Which Events are new, which count up and which are too many; pure. The numbers are client-go's (tools/record)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

_OBJECTS: Final = 4096
_BURST: Final = 25
_REFILL: Final = timedelta(minutes=5)
_DIFFERENT: Final = 10
_SIMILAR: Final = timedelta(minutes=10)
_WINDOW: Final = timedelta(minutes=30)
"""The API server keeps an Event for an hour by default, so one in the window still exists."""
_COMBINED: Final = "(combined from similar events): "


@dataclass(slots=True)
class Occurrence:
    """An Event to write: `key` tells the Events of an object apart."""

    key: str
    message: str
    first: datetime
    last: datetime
    count: int = 0


@dataclass(slots=True)
class _Reason:
    """The Events of one object with one reason."""

    last: datetime
    told: dict[str, Occurrence] = field(default_factory=dict)
    different: set[str] = field(default_factory=set)
    """Messages since it was last quiet."""


@dataclass(slots=True)
class _About:
    """The Events of one object."""

    at: datetime
    allowed: float = _BURST
    reasons: dict[str, _Reason] = field(default_factory=dict)


class Correlator:
    """Remembers what was told of the objects that were told of last."""

    def __init__(self) -> None:
        self._objects: OrderedDict[str, _About] = OrderedDict()

    def take(self, uid: str, reason: str, message: str, now: datetime) -> Occurrence | None:
        """The Event to write; None where there were too many about this object: 25 at once, then one in five minutes.

        The same message again within half an hour counts up. Of different messages with one reason ten are told; more
        are combined into one Event with the newest message, until there was none for ten minutes.
        """
        about = self._objects.pop(uid, None) or _About(now)
        self._objects[uid] = about
        if len(self._objects) > _OBJECTS:
            self._objects.popitem(last=False)
        about.allowed = min(_BURST, about.allowed + (now - about.at) / _REFILL)
        about.at = now
        if about.allowed < 1:
            return None
        about.allowed -= 1
        return _occurrence(about.reasons.setdefault(reason, _Reason(now)), reason, message, now)


def _occurrence(group: _Reason, reason: str, message: str, now: datetime) -> Occurrence:
    if now - group.last > _SIMILAR:
        group.different.clear()
    group.last = now
    group.told = {key: told for key, told in group.told.items() if now - told.last <= _WINDOW}
    key = f"{reason}\0{message}"
    if message not in group.different and len(group.different) >= _DIFFERENT:
        key, message = f"{reason}\0{_COMBINED}", _COMBINED + message
    else:
        group.different.add(message)
    told = group.told.setdefault(key, Occurrence(key, message, first=now, last=now))
    told.message, told.last, told.count = message, now, told.count + 1
    return told
