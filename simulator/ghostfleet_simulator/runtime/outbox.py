"""What the tokens of one step say to all clients, sent when the step is over."""

from __future__ import annotations

from typing import Protocol


class Line(Protocol):
    """A way to one client."""

    def send(self, data: bytes) -> None:
        """Send bytes, behind all that was sent before."""


class Outbox:
    """Keeps what is said during a step, and sends it in one go.

    A client that a write wakes costs the writer several times what the write itself does. Writes that follow each other
    closely find it awake still, so they are not interleaved with the making of the tokens.
    """

    __slots__ = ("_data", "_lines", "_open", "more")

    def __init__(self) -> None:
        # Side by side, because a pair for each would be one more object for the garbage collector to count.
        self._lines: list[Line] = []
        self._data: list[bytes] = []
        self._open = False
        self.more = False
        """More tokens come before anything is sent: deltas that can be merged may wait for them."""

    def open(self) -> None:
        """Keep what comes until `close`."""
        self._open = True

    def put(self, line: Line, data: bytes) -> None:
        """Have bytes sent on a line: at once, or with all that is kept, and with what comes next on that line."""
        if not self._open:
            line.send(data)
        elif self._lines and self._lines[-1] is line:
            self._data[-1] += data
        else:
            self._lines.append(line)
            self._data.append(data)

    def flush(self) -> None:
        """Send what is kept, in order."""
        lines, self._lines = self._lines, []
        kept, self._data = self._data, []
        for line, data in zip(lines, kept, strict=True):
            line.send(data)

    def close(self) -> None:
        """Send what is kept, and from now on at once."""
        self._open = False
        self.flush()
