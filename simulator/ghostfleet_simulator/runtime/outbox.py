"""What the tokens of one step say to all clients, sent when the step is over."""

from __future__ import annotations

from collections.abc import Callable
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

    __slots__ = ("_data", "_lines", "_open", "keep_data", "keep_line", "more")

    def __init__(self) -> None:
        # Side by side, because a pair for each would be one more object for the garbage collector to count.
        self._lines: list[Line] = []
        self._data: list[bytes] = []
        self._open = False
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
        """Send what is kept, in order; what follows each other on one line in one piece."""
        lines, kept = self._lines, self._data
        last, data = None, b""
        for line, more in zip(lines, kept, strict=True):
            if line is last:
                data += more
                continue
            if last is not None:
                last.send(data)
            last, data = line, more
        if last is not None:
            last.send(data)
        lines.clear()
        kept.clear()

    def close(self) -> None:
        """Send what is kept, and from now on at once."""
        self._open = False
        self.flush()
