"""Prefill/decode disaggregation inside one engine: blocks that are held for others, and blocks that come from others.

Source: vLLM 0.33 v1/core/sched/scheduler.py and distributed/kv_transfer/kv_connector/v1/nixl. Who the others are and
how they are asked is the caller's business; here are blocks, times and what a scheduler does about them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from ghostfleet_simulator.config import KVTransfer
from ghostfleet_simulator.engine.links import Link

if TYPE_CHECKING:
    from ghostfleet_simulator.engine.sequence import Sequence


class Stage(StrEnum):
    """How far KV cache is on its way to a sequence that waits, under vLLM's names."""

    WAITING_TO_START = "waiting_to_start"
    IN_PROGRESS = "in_progress"
    COMPLETED_WAITING = "completed_waiting"


class Incoming:
    """The keys and values of a prompt that another server computes.

    `source` belongs to the caller. Without one they come from nowhere: there is nothing to wait for but the time that
    a profile says.
    """

    __slots__ = ("blocks", "cached_tokens", "source", "stage")

    def __init__(self, source: Any = None, cached_tokens: int | None = None) -> None:
        self.source = source
        self.stage = None if source is None else Stage.WAITING_TO_START
        """None: they have come and are used, or will not come."""
        self.blocks = 0
        """How many are wanted: what the prefix cache holds is not."""
        self.cached_tokens = cached_tokens
        """What the other server had in its prefix cache, where it tells."""


class Outgoing:
    """The keys and values of a sequence that another server will come for."""

    __slots__ = ("block_ids", "ends_with_prompt", "key", "lease_us", "reasons", "tokens")

    def __init__(self, key: str, lease_us: int, reasons: frozenset[str], *, ends_with_prompt: bool = False) -> None:
        """`key` is what the other one asks by; blocks are held if the sequence ends for one of the `reasons`.

        `ends_with_prompt`: it ends with the token after its prompt, whatever the request allows.
        """
        self.key = key
        self.ends_with_prompt = ends_with_prompt
        self.lease_us = lease_us
        self.reasons = reasons
        self.block_ids: list[int] | None = None
        """The blocks that were held when it ended; None: none were."""
        self.tokens = 0
        """Tokens in them."""


@dataclass(slots=True)
class Hold:
    """Blocks of a sequence that has ended, which nobody else may use before they were fetched or the lease is over."""

    blocks: list[int]
    tokens: int
    cached_tokens: int
    until_us: int


@dataclass(slots=True)
class Happened:
    """What there is to tell the caller, since it was told last."""

    wanted: list[Sequence] = field(default_factory=list)
    """These have blocks for what shall come."""
    refused: list[Sequence] = field(default_factory=list)
    """These need nothing any more, and the other server holds it still."""
    arrived: list[Sequence] = field(default_factory=list)
    """All bytes of these have come over the link."""
    held: list[str] = field(default_factory=list)
    """Keys of what is now held for others."""
    sent: list[str] = field(default_factory=list)
    """Keys of what has left over the link."""
    expired: list[str] = field(default_factory=list)
    """Keys of what was not fetched in time and is not held any more."""

    @property
    def anything(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.wanted or self.refused or self.arrived or self.held or self.sent or self.expired)


class Transfers:
    """What an engine holds for others and gets from others."""

    def __init__(self, settings: KVTransfer) -> None:
        rate, latency_us = settings.bandwidth.bytes, settings.latency.us
        self.inbound: Link[Sequence] = Link(rate, latency_us)
        self.outbound: Link[str] = Link(rate, 0)
        self.holds: dict[str, Hold] = {}
        self.stages = dict.fromkeys(Stage, 0)
        """Sequences that wait, by the stage of what comes to them."""
        self.happened = Happened()
        self._expiries: list[tuple[int, str]] = []

    def move(self, seq: Sequence, stage: Stage | None) -> None:
        """What comes to a sequence has reached a stage; None: it waits for nothing any more."""
        incoming = seq.incoming
        if incoming is None:
            return
        if incoming.stage is not None:
            self.stages[incoming.stage] -= 1
        if stage is not None:
            self.stages[stage] += 1
        incoming.stage = stage

    def enter(self, seq: Sequence) -> None:
        """A sequence has come that wants something."""
        if seq.incoming is not None and seq.incoming.stage is not None:
            self.stages[seq.incoming.stage] += 1

    def hold(self, outgoing: Outgoing, hold: Hold) -> None:
        """Hold blocks for another server."""
        self.holds[outgoing.key] = hold
        heappush(self._expiries, (hold.until_us, outgoing.key))
        self.happened.held.append(outgoing.key)

    def renew(self, keys: Iterable[str], until_us: int) -> None:
        """Another server still wants these; they are held until then at least."""
        for key in keys:
            hold = self.holds.get(key)
            if hold is not None:
                hold.until_us = max(hold.until_us, until_us)

    def release(self, key: str, now_us: int) -> list[int]:
        """What was held is not needed any more: its blocks."""
        hold = self.holds.pop(key, None)
        self.outbound.drop(key, now_us)
        return [] if hold is None else hold.blocks

    def settle(self, now_us: int) -> list[int]:
        """End what is due by now; the blocks whose lease is over."""
        happened = self.happened
        happened.arrived += self.inbound.settle(now_us)
        happened.sent += self.outbound.settle(now_us)
        freed: list[int] = []
        expiries = self._expiries
        while expiries and expiries[0][0] <= now_us:
            _, key = heappop(expiries)
            hold = self.holds.get(key)
            if hold is None:
                continue
            if hold.until_us > now_us:
                heappush(expiries, (hold.until_us, key))
            else:
                happened.expired.append(key)
                freed += self.release(key, now_us)
        return freed

    @property
    def wake_us(self) -> int | None:
        """When something ends next."""
        times = [self.inbound.wake_us, self.outbound.wake_us, self._expiries[0][0] if self._expiries else None]
        return min((time for time in times if time is not None), default=None)

    def take(self) -> Happened | None:
        """What happened since the last call, if anything."""
        if not self.happened.anything:
            return None
        happened, self.happened = self.happened, Happened()
        return happened
