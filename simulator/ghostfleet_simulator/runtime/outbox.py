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

    __slots__ = ("_kept", "_open")

    def __init__(self) -> None:
        self._kept: list[tuple[Line, bytes]] = []
        self._open = False

    def open(self) -> None:
        """Keep what comes until `close`."""
        self._open = True

    def put(self, line: Line, data: bytes) -> None:
        """Have bytes sent on a line: at once, or with all that is kept."""
        if self._open:
            self._kept.append((line, data))
        else:
            line.send(data)

    def flush(self) -> None:
        """Send what is kept, in order."""
        kept, self._kept = self._kept, []
        for line, data in kept:
            line.send(data)

    def close(self) -> None:
        """Send what is kept, and from now on at once."""
        self._open = False
        self.flush()
