"""The prefix cache: full blocks found again by the hash of their tokens and of all before them.

Source: vLLM 0.33 v1/core/kv_cache_manager.py and v1/core/single_type_kv_cache_manager.py, for full attention.
"""

from __future__ import annotations

from collections.abc import Iterator

from ghostfleet_simulator.engine.blocks import BlockPool
from ghostfleet_simulator.engine.cache_events import BlockStored, CacheEvent
from ghostfleet_simulator.engine.hashing import BlockHasher
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.tiers import Tiers


class PrefixCache:
    """Finds and stores the blocks of sequences. Hashes are computed when they are first needed."""

    def __init__(
        self, pool: BlockPool, hasher: BlockHasher, block_size: int, events: list[CacheEvent] | None = None
    ) -> None:
        """What is stored is appended to `events`, if there is such a list."""
        self._pool = pool
        self._hasher = hasher
        self.hash_root = hasher.none_hash
        """What the hashes of all sequences are chained to."""
        self._block_size = block_size
        self._asked: Sequence | None = None
        self._found: list[int] = []
        """What was found last, for `_asked`; a queue's head is asked for in every pass until there is room for it."""
        self._forgotten = 0
        """`BlockPool.forgotten` then."""
        self._events = events
        self.tiers: Tiers | None = None
        """Where blocks go to that are stored, if anywhere."""

    def following(self, seq: Sequence, blocks: int) -> Iterator[bytes]:
        """The hashes of the blocks behind the first `blocks` of `seq`, but for what has to be computed anyway."""
        for index in range(blocks, (seq.num_tokens - 1) // self._block_size):
            yield seq.block_hashes[index] if index < len(seq.block_hashes) else self._hasher.following(seq)

    def hash_ahead(self, seq: Sequence) -> Iterator[bytes]:
        """Hash the full blocks of the prompt of `seq`, one with every item; they are not hashed again."""
        for _ in range(len(seq.block_hashes), len(seq.prompt) // self._block_size):
            yield self._hasher.following(seq)

    def find(self, seq: Sequence) -> list[int]:
        """The blocks that hold the beginning of `seq`; never its last token, which has to be computed."""
        hashes, following, find = seq.block_hashes, self._hasher.following, self._pool.find
        if seq is not self._asked or self._pool.forgotten != self._forgotten:
            self._asked, self._found, self._forgotten = seq, [], self._pool.forgotten
        known, blocks = len(hashes), self._found
        for index in range(len(blocks), (seq.num_tokens - 1) // self._block_size):
            block = find(hashes[index] if index < known else following(seq))
            if block is None:
                break
            blocks.append(block)
        return blocks.copy()

    def store(self, seq: Sequence, tokens: int) -> None:
        """Have the full blocks that hold the first `tokens` tokens of `seq` found from now on."""
        full = tokens // self._block_size
        if full <= seq.stored:
            return
        hashes, following, store = seq.block_hashes, self._hasher.following, self._pool.store
        known = len(hashes)
        for index in range(seq.stored, full):
            store(seq.blocks[index], hashes[index] if index < known else following(seq))
        if self._events is not None:
            self._events.append(self._event(seq, seq.stored, full))
        if self.tiers is not None:
            self.tiers.offer(hashes[seq.stored : full])
        seq.stored = full

    def report_found(self, seq: Sequence, blocks: int) -> None:
        """Tell once more of the first blocks of `seq`, which were found (vLLM's `kv_cache_report_mode` `full`)."""
        if self._events is not None and blocks:
            self._events.append(self._event(seq, 0, blocks))

    def _event(self, seq: Sequence, first: int, end: int) -> BlockStored:
        """All blocks of `seq` from `first` up to `end` in one event (vLLM 0.33 v1/core/block_pool.py)."""
        hashes, size = seq.block_hashes, self._block_size
        return BlockStored(
            block_hashes=hashes[first:end],
            parent_block_hash=hashes[first - 1] if first else None,
            token_ids=seq.tokens(first * size, end * size),
            block_size=size,
            extra_keys=[self._hasher.shown_keys(seq, index) for index in range(first, end)],
            lora_id=seq.lora.id if seq.lora else None,
            lora_name=seq.lora.name if seq.lora else None,
            session_id=seq.session_id,
        )
