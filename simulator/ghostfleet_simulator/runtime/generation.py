"""A request in the making: its sequences, and the text of an answer up to the string that stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.ranks import Ranks

_AT_ONCE: Final = 32_768
"""Tokens of the prompts of a request from which they are hashed in slices, so that nobody waits for it."""
_SLICE: Final = 512
"""Blocks of a slice, some 2 ms of work."""


class _Answers:
    """The answers to one prompt, and how many of them have not ended."""

    __slots__ = ("open", "sequences")

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.open = len(sequences)


class Generation:
    """The sequences of one request; when all of them have ended `on_end` is called, or else `wait` returns."""

    __slots__ = ("_asked", "_hashing", "_on_end", "_open", "_ranks", "_siblings", "_waiter", "sequences")

    def __init__(self, ranks: Ranks, on_end: Callable[[], None] | None = None) -> None:
        self._ranks = ranks
        self._on_end = on_end
        self._open = 0
        self._asked: int | None = None
        self._siblings: dict[Sequence, _Answers] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._hashing: Iterator[bytes] | None = None
        """Hashes the prompts, which are not queued yet."""
        self.sequences: list[Sequence] = []
        """In the order of the choices."""

    def begin(self, prompts: list[list[Sequence]], rank: int | None) -> None:
        """Queue the answers of each prompt, all of them at one moment; `rank` is the one that the request names."""
        for sequences in prompts:
            self.sequences += sequences
            self._siblings |= dict.fromkeys(sequences, _Answers(sequences))
        self._open = len(self.sequences)
        self._asked = rank
        if sum(len(seq.prompt) for seq in self.sequences) < _AT_ONCE:
            self._submit()
        else:
            self._hashing = self._ranks.hash_ahead(self.sequences)
            self._hash()

    def _hash(self) -> None:
        """Hash a slice of the prompts, and queue the answers when it was the last; in vLLM, too, that comes before."""
        if self._hashing is None:
            return
        if sum(1 for _ in islice(self._hashing, _SLICE)) == _SLICE:
            asyncio.get_running_loop().call_soon(self._hash)
        else:
            self._submit()

    def _submit(self) -> None:
        self._hashing = None
        self._ranks.submit(self.sequences, self._asked)

    def ended(self, seq: Sequence) -> None:
        """Said by an output when its sequence has ended, before the request as a whole may go on."""
        answers = self._siblings[seq]
        answers.open -= 1
        if answers.open == 0:
            self._ranks.prompt_done(seq, len(answers.sequences), max(answer.produced for answer in answers.sequences))
        self._open -= 1
        if self._open == 0:
            self._release()

    def stop(self, seq: Sequence, stop_string: str) -> None:
        """Said by an output that has come to a stop string before the sequence ended of itself; `ended` follows."""
        self._ranks.end(seq, stop_string)

    def abandon(self) -> None:
        """The client is gone: end what still runs."""
        if self._hashing is not None:
            self._submit()
        for seq in self.sequences:
            self._ranks.abandon(seq)
        self._release()

    def _release(self) -> None:
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            self._let_go()
            on_end()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return when every sequence has ended, or after `abandon`."""
        try:
            if self._open:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for seq in self.sequences:  # an output knows its sequence, which would keep both until the next collection
            seq.owner = None
