"""Pause and sleep: what a server does when it is told to stop generating for a while.

Source: vLLM 0.33 v1/engine/core.py (`pause_scheduler`, `sleep`, `wake_up`) and v1/executor/abstract.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

from ghostfleet_simulator.runtime.ranks import Ranks

_log = logging.getLogger("ghostfleet.standby")

WEIGHTS: Final = "weights"
KV_CACHE: Final = "kv_cache"
_SCHEDULING: Final = "scheduling"
_MEMORY: Final = frozenset({WEIGHTS, KV_CACHE})
_STATES: Final = {1: "weights_offloaded", 2: "discard_all"}


class PauseMode(StrEnum):
    """What becomes of requests in progress."""

    ABORT = "abort"
    WAIT = "wait"
    KEEP = "keep"


class NotPaused(Exception):
    """Memory can only be released while generation is paused, nothing runs, and all memory is there."""


class Standby:
    """Whether a server generates, and what of its memory is there.

    A pause by an operator in the modes `abort` and `wait` has new requests refused; in all other pauses, those by
    `sleep` included, they wait. Nothing is generated while memory is away, resumed or not.
    """

    def __init__(self, ranks: Ranks, wake_up_seconds: float, show: Callable[[str | None], None]) -> None:
        """`wake_up_seconds`: how long all memory takes to come back; `show` is told the state, as metrics name it."""
        self._ranks = ranks
        self._wake_up_seconds = wake_up_seconds
        self._show = show
        self._away: set[str] = set()
        """Memory that is not there."""
        self.paused = False
        self.refuses = False
        """New requests are turned away."""

    @property
    def sleeping(self) -> bool:
        """Asleep, or just paused."""
        return self.paused or bool(self._away)

    async def pause(self, mode: PauseMode, *, clear_cache: bool) -> None:
        """Stop generating until `resume`; with `PauseMode.WAIT` returns when what runs has ended."""
        self.refuses = mode is not PauseMode.KEEP
        await self._pause(mode, clear_cache=clear_cache)

    async def _pause(self, mode: PauseMode, *, clear_cache: bool) -> None:
        self.paused = True
        if mode is PauseMode.ABORT:
            self._ranks.abort_all()
        self._ranks.pause(freeze=mode is PauseMode.KEEP)
        if mode is PauseMode.WAIT:
            await self._ranks.idle()
        if clear_cache:
            self._ranks.reset_prefix_cache(reset_running_requests=True)

    def resume(self) -> None:
        """Generate again."""
        self.paused = self.refuses = False
        if not self._away:
            self._ranks.resume()

    async def sleep(self, level: int, mode: PauseMode) -> None:
        """Level 0 only pauses; 1 and 2 drop the KV cache, and put the weights aside or drop them too."""
        await self._pause(mode, clear_cache=level >= 1)
        if level >= 1:
            if WEIGHTS in self._away:
                _log.warning("Executor is already sleeping.")
            self._away = set(_MEMORY)
        self._show(_STATES.get(level))

    def release_kv_cache(self) -> None:
        """Give the memory of the KV cache away. Raises `NotPaused`."""
        if not self.paused or self._ranks.sequences:
            raise NotPaused("release_kv_cache_memory() requires a completed pause first")
        if self._away:
            raise NotPaused("release_kv_cache_memory() requires all executor memory to be resident")
        self._ranks.reset_prefix_cache(reset_running_requests=True)
        self._away = {KV_CACHE}
        self._show(None)

    async def wake_up(self, tags: Iterable[str] | None) -> bool:
        """Bring memory back, all of it or only what the tags name; whether all is there, and generation goes on."""
        wanted = None if tags is None else [tag for tag in tags if tag != _SCHEDULING]
        if wanted is None or wanted:
            await self._bring_back(self._away if wanted is None else wanted)
        if self._away:
            return False
        self.resume()
        self._show("awake")
        return True

    async def _bring_back(self, wanted: Iterable[str]) -> None:
        back = set(wanted)
        if not self._away:
            _log.warning("Executor is not sleeping.")
        elif back <= self._away:
            await asyncio.sleep(self._wake_up_seconds * len(back) / len(_MEMORY))
            self._away -= back
        else:
            for tag in sorted(back - self._away):
                _log.warning("Tag %s is not in sleeping tags %s", tag, sorted(self._away))
