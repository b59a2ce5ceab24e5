"""Which of a server's engines takes a sequence: vLLM's internal load balancing between data-parallel ranks; pure.

Source: vLLM 0.33 v1/engine/core_client.py, `DPLBAsyncMPClient`, and v1/engine/coordinator.py, `DPCoordinatorProc`, with
one API process (`--api-server-count 1`). What holds the engines of a mixture of experts in step with each other (waves,
dummy batches, the coordinator's wait for a step to be complete) is left out: engines are independent, as they are in
vLLM with any other model.
"""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import Final, NamedTuple

_SNAPSHOT_US: Final = 100_000
"""Least time between two snapshots of the engines' load that the coordinator sends."""
_REPEAT_US: Final = 5_000_000
"""When it sends one although nothing has changed."""
_PRESSURE: Final = 0.5
"""KV-cache usage from which on a queue counts for more than its length."""


class _Told(NamedTuple):
    """What an engine last told the coordinator."""

    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0


class Balancer:
    """Chooses engines by their position. It knows the load as vLLM's API process does.

    What an engine tells is seen only with the next snapshot. Until then a sequence that was sent to an engine counts as
    waiting there. How many sequences it sent that have not ended, it always knows.
    """

    def __init__(self, engines: int, *, counts_in_flight: bool = True, takes_turns: bool = True) -> None:
        """Older releases do not count what is in flight, or do not go on to the next engine where all are alike."""
        self._told = [_Told()] * engines
        self._changed_us: int | None = None
        """Since when there is something that no snapshot has shown."""
        self._sent_us = -_REPEAT_US
        """When the last snapshot was sent."""
        self._seen = self._told
        self._added = [0] * engines
        """Sequences given to each engine since the last snapshot."""
        self._in_flight = [0] * engines
        self._first = 0
        self._counts_in_flight = counts_in_flight
        self._takes_turns = takes_turns

    @property
    def in_flight(self) -> List[int]:
        """Sequences that were given to each engine and have not ended."""
        return tuple(self._in_flight)

    def choose(self, now_us: int) -> int:
        """The engine for a sequence that names none; it is in flight from now on."""
        self._catch_up(now_us)
        count = len(self._told)
        order = [(self._first + turn) % count for turn in range(count)]
        chosen = min(order, key=self._score)
        self._added[chosen] += 1
        if self._takes_turns:
            self._first = (self._first + 1) % count
        self._in_flight[chosen] += 1
        return chosen

    def pin(self, engine: int) -> None:
        """A sequence names its engine. vLLM counts it in flight, but not as waiting."""
        self._in_flight[engine] += 1

    def ended(self, engine: int) -> None:
        """A sequence of an engine has ended."""
        self._in_flight[engine] -= 1

    def told(self, engine: int, waiting: int, running: int, kv_usage: float, now_us: int) -> None:
        """An engine tells its load: vLLM's does so when the numbers of sequences have changed."""
        if self._told[engine][:2] == (waiting, running):
            return
        self._catch_up(now_us)
        self._told = [*self._told]
        self._told[engine] = _Told(waiting, running, kv_usage)
        if self._changed_us is None:
            self._changed_us = now_us

    def _score(self, engine: int) -> float:
        waiting, running, kv_usage = self._seen[engine]
        waiting += self._added[engine]
        if not self._counts_in_flight:
            return 4 * waiting + running
        score: float = max(self._in_flight[engine], waiting + running)
        return score + waiting * 6.0 * max(0.0, kv_usage - _PRESSURE)

    def _catch_up(self, now_us: int) -> None:
        """Take in the snapshots that were sent before now."""
        if self._changed_us is not None:
            due_us = max(self._changed_us, self._sent_us + _SNAPSHOT_US)
            if due_us >= now_us:
                return
            self._take(due_us)
            self._changed_us = None
        repeats = (now_us - self._sent_us - 1) // _REPEAT_US
        if repeats > 0:
            self._take(self._sent_us + repeats * _REPEAT_US)

    def _take(self, sent_us: int) -> None:
        self._sent_us = sent_us
        self._seen = self._told
        self._added = [0] * len(self._told)
