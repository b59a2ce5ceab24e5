"""A look-up in the prefix cache that is made again costs only what has changed."""

from __future__ import annotations

import pytest
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.blocks import BlockPool
from ghostfleet_simulator.engine.hashing import BlockHasher
from ghostfleet_simulator.engine.prefix_cache import PrefixCache
from ghostfleet_simulator.engine.sequence import Sequence

SIZE = 16


class CountingPool(BlockPool):
    """Counts how often it was asked for a block."""

    asked = 0

    def find(self, block_hash: bytes) -> int | None:
        self.asked += 1
        return super().find(block_hash)


@pytest.fixture
def pool() -> CountingPool:
    return CountingPool(200)


@pytest.fixture
def cache(pool: CountingPool) -> PrefixCache:
    return PrefixCache(pool, BlockHasher(ServerConfig.model_validate({"model": {"name": "m"}}), bytes(32)), SIZE)


def sequence(blocks: int) -> Sequence:
    return Sequence("s", list(range(blocks * SIZE + 1)), Answer(1), 0)


def stored(pool: BlockPool, cache: PrefixCache, blocks: int) -> Sequence:
    """A sequence whose first blocks are in the cache; it owns them."""
    seq = sequence(blocks)
    seq.blocks = pool.take(blocks)
    cache.store(seq, blocks * SIZE)
    return seq


def test_the_head_of_a_queue_is_not_looked_up_block_by_block_in_every_pass(
    pool: CountingPool, cache: PrefixCache
) -> None:
    """One question for each further pass: whether the next block has come."""
    stored(pool, cache, 100)
    head = sequence(150)
    found = cache.find(head)
    assert len(found) == 100
    before = pool.asked
    for _ in range(10):
        assert cache.find(head) == found
    assert pool.asked == before + 10


def test_what_has_come_since_is_found(pool: CountingPool, cache: PrefixCache) -> None:
    stored(pool, cache, 10)
    head = sequence(30)
    assert len(cache.find(head)) == 10
    longer = sequence(20)
    longer.blocks = cache.find(longer) + pool.take(10)
    longer.stored = 10
    cache.store(longer, 20 * SIZE)
    assert cache.find(head) == longer.blocks


def test_what_has_gone_since_is_not_found(pool: CountingPool, cache: PrefixCache) -> None:
    """Blocks of one that ended, given out to another."""
    first = stored(pool, cache, 100)
    head = sequence(150)
    assert len(cache.find(head)) == 100
    pool.give_back(first.blocks)
    pool.take(pool.free - 40)
    assert len(cache.find(head)) == 40


def test_a_reset_is_noticed(pool: CountingPool, cache: PrefixCache) -> None:
    first = stored(pool, cache, 10)
    head = sequence(20)
    assert len(cache.find(head)) == 10
    pool.give_back(first.blocks)
    assert pool.reset()
    assert cache.find(head) == []
