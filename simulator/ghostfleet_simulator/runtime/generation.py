"""A request in the making: its sequences, and the text of an answer up to the string that stops it."""

from __future__ import annotations

import asyncio

from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.driver import Driver


class Generation:
    """The sequences of one request; `wait` returns when all of them have ended."""

    __slots__ = ("_driver", "_open", "_waiter", "sequences")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._open = 0
        self._waiter: asyncio.Future[None] | None = None
        self.sequences: list[Sequence] = []
        """In the order of the choices."""

    def add(self, seq: Sequence) -> None:
        """Take in a sequence, before `begin`."""
        self.sequences.append(seq)

    def begin(self) -> None:
        """Queue the sequences, all of them before any is admitted."""
        self._open = len(self.sequences)
        for seq in self.sequences:
            self._driver.submit(seq)

    def ended(self) -> None:
        """Said by an output when its sequence has ended."""
        self._open -= 1
        if self._open == 0 and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def stop(self, seq: Sequence, stop_string: str) -> None:
        """Said by an output that has come to a stop string before the sequence ended of itself."""
        self._driver.end(seq, stop_string)
        self.ended()

    def abort(self) -> None:
        """The client is gone: end what still runs, quietly (vLLM counts no such request as finished)."""
        for seq in self.sequences:
            self._driver.abort(seq)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return when every sequence has ended, or after `abort`."""
        if self._open:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
