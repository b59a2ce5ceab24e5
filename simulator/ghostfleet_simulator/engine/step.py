"""What one pass of the engine brought about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as List

from ghostfleet_simulator.engine.cache_events import CacheEvent
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.tiers import Transfer
from ghostfleet_simulator.engine.transfer import Happened


class Step:
    """What one call of `Engine.advance` brought about. Lists are in the order of production."""

    __slots__ = (
        "cache_events",
        "cached_elsewhere",
        "cached_tokens",
        "dismissed",
        "finished",
        "first",
        "gaps",
        "happened",
        "hit_tokens",
        "loaded_from_disk",
        "loaded_tokens",
        "offload_failures",
        "preempted",
        "prompt_tokens",
        "pulled_tokens",
        "queried_tokens",
        "tokens",
        "transfers",
        "wake_us",
    )

    def __init__(self) -> None:
        self.tokens: list[Sequence] = []
        """Each produced exactly one token."""
        self.first: list[Sequence] = []
        """Those of `tokens` whose token was the first of the answer."""
        self.finished: list[Sequence] = []
        """Those of `tokens` whose token was the last."""
        self.gaps: dict[int, int] = defaultdict(int)
        """Time since the previous token of the same sequence in microseconds -> how many of `tokens` had it."""
        self.prompt_tokens = 0
        """Prompt tokens, in whole, of the sequences in `first`."""
        self.cached_tokens = 0
        """Those of `prompt_tokens` that were in the prefix cache when their sequence was first admitted."""
        self.queried_tokens = 0
        """Tokens of the sequences that were admitted for the first time, as far as the prefix cache is on."""
        self.hit_tokens = 0
        """Those of `queried_tokens` that were in the prefix cache."""
        self.loaded_tokens = self.loaded_from_disk = 0
        """Those of them that came from a tier beside the GPU, and those of these that were on disk only."""
        self.pulled_tokens = 0
        """Those of `queried_tokens` that another server is to send."""
        self.cached_elsewhere = 0
        """Those of `cached_tokens` that came from such a tier, or from another server."""
        self.transfers: List[Transfer] = ()
        """Transfers between such a tier and the GPU that have ended."""
        self.offload_failures = 0
        """Times that there was no room in host memory for what was to be offloaded."""
        self.dismissed: List[Sequence] = ()
        """Sequences that ended unserved, because too little of their prompt is cached."""
        self.happened: Happened | None = None
        """What happened between this server and others, where there is anything."""
        self.preempted = 0
        """Sequences that lost their blocks."""
        self.cache_events: List[CacheEvent] = ()
        """What came into the prefix cache and went, in that order, since the step before; only where it is wanted."""
        self.wake_us: int | None = None
        """When `advance` wants to be called next; not after the present: at once; None: when a sequence is added."""
