"""The pool of KV-cache blocks: which are free, in which order they are reused, and what the full ones hold.

Source: vLLM 0.33 v1/core/block_pool.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from ghostfleet_simulator.engine.cache_events import AllBlocksCleared, BlockRemoved, CacheEvent


class BlockPool:
    """`blocks` blocks of which block 0 is the null block and never given out.

    A block is free or has owners, more than one where they share a prefix. A full block can have a hash, by which it
    is found whether it has owners or not; it loses the hash when it is given out anew. Blocks with equal content are
    not merged.
    """

    def __init__(self, blocks: int, *, unhashed_first: bool = True, events: list[CacheEvent] | None = None) -> None:
        """`unhashed_first`: freed blocks without a hash are reused before all others (vLLM since 0.23), not last.

        What is forgotten is appended to `events`, if there is such a list.
        """
        if blocks < 2:
            raise ValueError("a pool has at least two blocks, one of them the null block")
        self.usable = blocks - 1
        """Blocks that can hold tokens."""
        self._unhashed_first = unhashed_first
        self._events = events
        # The queue of free blocks in the order of reuse, in three parts: what was put in front (the end of the list is
        # the head of the queue), what was never used, what was put behind. Every free block with a hash is in the last.
        self._front: list[int] = []
        self._fresh = 1
        self._behind: OrderedDict[int, None] = OrderedDict()
        self._more_owners: dict[int, int] = {}
        """Owners beyond the first, of blocks that have some."""
        self._hash_of: dict[int, bytes] = {}
        self._block_with: dict[bytes, int] = {}
        """The block with a hash that has had it for the longest time."""
        self._copies: dict[bytes, list[int]] = {}
        """Further blocks with the same hash, the oldest first."""
        self.forgotten = 0
        """How often a block lost its hash: while this stays the same, what was found is still there."""

    @property
    def free(self) -> int:
        """Blocks without an owner; those with a hash count."""
        return len(self._front) + self.usable + 1 - self._fresh + len(self._behind)

    @property
    def usage(self) -> float:
        """Share of the usable blocks that have an owner, 0 to 1."""
        return 1 - self.free / self.usable

    def take(self, count: int) -> list[int]:
        """`count` blocks, at most `free`, from the head of the free queue; they have no hash any more."""
        front = self._front
        if count <= len(front):
            taken = front[: -count - 1 : -1]
            del front[len(front) - count :]
            return taken
        taken = front[::-1]
        front.clear()
        fresh = min(count - len(taken), self.usable + 1 - self._fresh)
        taken += range(self._fresh, self._fresh + fresh)
        self._fresh += fresh
        for _ in range(count - len(taken)):
            block, _ = self._behind.popitem(last=False)
            self._forget(block)
            taken.append(block)
        return taken

    def give_back(self, blocks: Sequence[int]) -> None:
        """Take a sequence's blocks from it, in the order of its tokens; those at its end are reused first."""
        behind, front, more_owners = self._behind, self._front, self._more_owners
        if self._unhashed_first:
            hash_of = self._hash_of
            unhashed = [block for block in blocks if block not in hash_of]
            front += unhashed
            if len(unhashed) == len(blocks):
                return
            blocks = [block for block in blocks if block in hash_of]
        for block in reversed(blocks):
            owners = more_owners.get(block)
            if owners is None:
                behind[block] = None
            elif owners == 1:
                del more_owners[block]
            else:
                more_owners[block] = owners - 1

    def find(self, block_hash: bytes) -> int | None:
        """A block with this hash."""
        return self._block_with.get(block_hash)

    def ownerless(self, blocks: Iterable[int]) -> int:
        """How many of these blocks, all with a hash, are free."""
        behind = self._behind
        return sum(block in behind for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Give blocks with a hash one more owner; the free ones leave the free queue."""
        behind, more_owners = self._behind, self._more_owners
        for block in blocks:
            if block in behind:
                del behind[block]
            else:
                more_owners[block] = more_owners.get(block, 0) + 1

    def store(self, block: int, block_hash: bytes) -> None:
        """Have an owned block without a hash found by `block_hash`."""
        self._hash_of[block] = block_hash
        if block_hash in self._block_with:
            self._copies.setdefault(block_hash, []).append(block)
        else:
            self._block_with[block_hash] = block

    @property
    def contents(self) -> list[bytes]:
        """The hash of every block that has one; a hash is there as often as there are blocks with it."""
        return list(self._hash_of.values())

    def reset(self) -> bool:
        """Forget every hash; False, and nothing happens, while a block has an owner."""
        if self.free < self.usable:
            return False
        for memory in (self._hash_of, self._block_with, self._copies):
            memory.clear()
        self.forgotten += 1
        if self._events is not None:
            self._events.append(AllBlocksCleared())
        return True

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of.pop(block, None)
        if block_hash is None:
            return
        self.forgotten += 1
        if self._events is not None:
            self._events.append(BlockRemoved([block_hash]))
        copies = self._copies.get(block_hash)
        if copies is None:
            del self._block_with[block_hash]
            return
        if self._block_with[block_hash] == block:
            self._block_with[block_hash] = copies.pop(0)
        else:
            copies.remove(block)
        if not copies:
            del self._copies[block_hash]
