"""Sequences that wait for blocks from a tier or from another server, and blocks that wait for another server.

Source: vLLM 0.33 v1/core/sched/scheduler.py, WAITING_FOR_REMOTE_KVS. Whether a sequence may begin to wait is decided by
the scheduler's pass over the queue; here its blocks are taken, kept and given back.
"""

from __future__ import annotations

from ghostfleet_simulator.engine.blocks import BlockPool
from ghostfleet_simulator.engine.prefix_cache import PrefixCache
from ghostfleet_simulator.engine.queues import WaitingQueue
from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.engine.tiers import Tiers
from ghostfleet_simulator.engine.transfer import Hold, Stage, Transfers


class Loads:
    """What is on its way to the sequences of one scheduler, and what is held of them for others."""

    def __init__(
        self,
        pool: BlockPool,
        cache: PrefixCache | None,
        tiers: Tiers | None,
        transfers: Transfers | None,
        waiting: WaitingQueue,
        deferred: set[Sequence],
        block_size: int,
    ) -> None:
        """All of them are those of the scheduler."""
        self._pool, self._cache, self._tiers, self._transfers = pool, cache, tiers, transfers
        self._waiting, self._deferred = waiting, deferred
        self._block_size = block_size
        self.sequences: dict[Sequence, None] = {}
        """Those that wait; they have a place for what comes."""

    # --- the queue's head begins to wait ---------------------------------------------------------

    def pull(self, seq: Sequence, found: list[int]) -> bool:
        """Have the blocks behind those `found` come from another server; whether the sequence waits for them now."""
        incoming, transfers = seq.incoming, self._transfers
        if incoming is None or transfers is None:
            return False
        if not seq.reads_prefix_cache:
            transfers.move(seq, None)
            transfers.happened.refused.append(seq)
            return False
        self._leave_queue()
        incoming.blocks = -(-seq.num_tokens // self._block_size) - len(found)
        self._place(seq, found, incoming.blocks)
        seq.loaded, seq.cached_tokens = seq.num_tokens - len(found) * self._block_size, seq.num_tokens
        transfers.move(seq, Stage.IN_PROGRESS)
        transfers.happened.wanted.append(seq)
        return True

    def fetch(self, seq: Sequence, found: list[int], passed_over: list[Sequence], now_us: int) -> bool:
        """Have the blocks behind those `found` come from a tier, if any are there; whether the queue's head waits now.

        It is `passed_over` while the blocks are on their way to host memory.
        """
        tiers = self._tiers
        if tiers is None or not seq.reads_prefix_cache:
            return False
        seq.loaded = seq.loaded_from_disk = 0
        if self._cache is None:
            return False
        hashes, ready = tiers.find(self._cache.following(seq, len(found)), now_us)
        if not hashes or len(hashes) + self._pool.ownerless(found) > self._pool.free:
            return False
        self._leave_queue()
        if not ready:
            passed_over.append(seq)
            return True
        self._place(seq, found, len(hashes))
        seq.loaded = len(hashes) * self._block_size
        seq.loaded_from_disk = tiers.load(seq, hashes, now_us) * self._block_size
        return True

    def _leave_queue(self) -> None:
        self._deferred.discard(self._waiting.pop())

    def _place(self, seq: Sequence, found: list[int], more: int) -> None:
        self._pool.share(found)
        seq.blocks = found + self._pool.take(more)
        seq.stored, seq.status = len(found), Status.LOADING
        self.sequences[seq] = None

    # --- what comes, and what does not -----------------------------------------------------------

    def fetched(self, seq: Sequence) -> None:
        """The blocks of a sequence have come: it is the next to be admitted, and they can be found."""
        if seq.status is not Status.LOADING:
            self._bury(seq)
            return
        if self._cache is not None:
            self._cache.store(seq, min(len(seq.blocks) * self._block_size, seq.num_tokens))
        if self._transfers is not None:
            self._transfers.move(seq, Stage.COMPLETED_WAITING)
        self._put_back(seq)

    def unfetched(self, seq: Sequence) -> None:
        """What another server was to send does not come: the sequence waits to be computed here."""
        if self._transfers is not None:
            self._transfers.move(seq, None)
        seq.loaded = seq.cached_tokens = 0
        if seq.status is not Status.LOADING:
            self._bury(seq)
            return
        self._pool.give_back(seq.blocks)
        seq.blocks, seq.stored = [], 0
        self._put_back(seq)

    def leave(self, seq: Sequence) -> None:
        """A sequence that waits here or in the queue is given up."""
        on_their_way = False
        if seq.status is Status.LOADING:
            del self.sequences[seq]
            on_their_way = seq.incoming is not None and seq.incoming.stage is Stage.IN_PROGRESS
        else:
            self._waiting.remove(seq)
        self._deferred.discard(seq)
        if self._transfers is not None:
            self._transfers.move(seq, None)
        if not on_their_way:  # what comes from another server is written until it says that it is done
            self._bury(seq)

    def _bury(self, seq: Sequence) -> None:
        """Nothing is written into the blocks of a sequence that was given up any more."""
        self._pool.give_back(seq.blocks)
        seq.blocks = []

    def _put_back(self, seq: Sequence) -> None:
        del self.sequences[seq]
        seq.status = Status.PREEMPTED if seq.preemptions else Status.WAITING
        self._waiting.put_back(seq)

    # --- what goes to others ---------------------------------------------------------------------

    def hold(self, seq: Sequence, now_us: int) -> None:
        """A sequence has ended whose blocks another server will come for, if it ended as it should."""
        outgoing = seq.outgoing
        if outgoing is None or self._transfers is None or seq.finish_reason not in outgoing.reasons:
            return
        if self._cache is not None:
            self._cache.store(seq, seq.num_tokens - 1)
        outgoing.block_ids, outgoing.tokens = seq.blocks, seq.num_tokens - 1
        hold = Hold(seq.blocks, outgoing.tokens, seq.cached_tokens, now_us + outgoing.lease_us)
        self._transfers.hold(outgoing, hold)
        seq.blocks = []
