"""What the tokens of one step say to all clients, sent when the step is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from ghostfleet_simulator.runtime.submission import submission

_MANY: Final = 4
"""From so many lines on one call for all costs less than one for each."""


class Line(Protocol):
    """A way to one client."""

    @property
    def descriptor(self) -> int:
        """Of the socket that bytes may be written to as they are; -1 where that would not do."""

    def send(self, data: bytes) -> None:
        """Send bytes, behind all that was sent before."""


class Outbox:
    """Keeps what is said during a step, and sends it in one go.

    A client that a write wakes costs the writer several times what the write itself does. Writes that follow each other
    closely find it awake still, so they are not interleaved with the making of the tokens; where the system lets them
    be one call, it does not even get between them.
    """

    __slots__ = ("_data", "_lines", "_open", "_submission", "keep_data", "keep_line", "more")

    def __init__(self) -> None:
        # Side by side, because a pair for each would be one more object for the garbage collector to count.
        self._lines: list[Line] = []
        self._data: list[bytes] = []
        self._open = False
        self._submission = submission()
        self.keep_line: Callable[[Line], None] = self._lines.append
        """Half of `put`, for who knows that the outbox is open: the line, and with `keep_data` what goes on it."""
        self.keep_data: Callable[[bytes], None] = self._data.append
        self.more = False
        """More tokens come before anything is sent: deltas that can be merged may wait for them."""

    def open(self) -> None:
        """Keep what comes until `close`."""
        self._open = True

    def put(self, line: Line, data: bytes) -> None:
        """Have bytes sent on a line: at once, or with all that is kept."""
        if self._open:
            self.keep_line(line)
            self.keep_data(data)
        else:
            line.send(data)

    def flush(self) -> None:
        """Send what is kept, in order; what goes on one line in one piece."""
        lines, kept = self._lines, self._data
        if len(set(lines)) < len(lines):
            lines, kept = _joined(lines, kept)
        if self._submission is None or len(lines) < _MANY:
            for line, data in zip(lines, kept, strict=True):
                line.send(data)
        else:
            # What the kernel did not take is for the line to see to.
            for index, sent in self._submission.write([line.descriptor for line in lines], kept):
                lines[index].send(kept[index][sent:])
        self._lines.clear()
        self._data.clear()

    def close(self) -> None:
        """Send what is kept, and from now on at once."""
        self._open = False
        self.flush()


def _joined(lines: list[Line], kept: list[bytes]) -> tuple[list[Line], list[bytes]]:
    """Each line once, with all that goes on it."""
    whole: dict[Line, bytes] = {}
    for line, data in zip(lines, kept, strict=True):
        whole[line] = whole.get(line, b"") + data
    return list(whole), list(whole.values())
