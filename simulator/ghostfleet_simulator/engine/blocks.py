"""The pool of KV-cache blocks. Every block is free or owned by exactly one sequence (prefix sharing comes later)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class BlockPool:
    """`blocks` blocks of which block 0 is the null block and never given out (vLLM 0.33 v1/core/block_pool.py)."""

    def __init__(self, blocks: int) -> None:
        if blocks < 2:
            raise ValueError("a pool has at least two blocks, one of them the null block")
        self.usable = blocks - 1
        """Blocks that can hold tokens."""
        self._free = deque(range(1, blocks))

    @property
    def free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the usable blocks that are owned, 0 to 1."""
        return 1 - len(self._free) / self.usable

    def take(self, count: int) -> list[int]:
        """`count` blocks, at most `free`, from the head of the free queue."""
        popleft = self._free.popleft
        return [popleft() for _ in range(count)]

    def give_back(self, blocks: Iterable[int]) -> None:
        """Free blocks; without a hash they are reused first (vLLM since 0.23 prepends them)."""
        self._free.extendleft(blocks)
