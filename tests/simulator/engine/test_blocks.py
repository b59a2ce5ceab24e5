"""The pool gives blocks out in vLLM's order and finds the full ones by their hash."""

from __future__ import annotations

import pytest

from ghostfleet_simulator.engine.blocks import BlockPool

A, B, C = b"a", b"b", b"c"


def pool(blocks: int = 6, **options: bool) -> BlockPool:
    return BlockPool(blocks, **options)


def drained(one: BlockPool) -> list[int]:
    """The free queue, by taking everything."""
    return one.take(one.free)


def test_block_0_is_never_given_out() -> None:
    one = pool()
    assert (one.usable, one.free, one.usage) == (5, 5, 0)
    assert drained(one) == [1, 2, 3, 4, 5]
    assert (one.free, one.usage) == (0, 1)


def test_blocks_without_a_hash_are_reused_at_once_the_last_one_first() -> None:
    one = pool()
    one.give_back(one.take(3))
    assert one.free == 5
    assert drained(one) == [3, 2, 1, 4, 5]


def test_before_0_23_they_are_reused_last() -> None:
    one = pool(unhashed_first=False)
    one.give_back(one.take(3))
    assert drained(one) == [4, 5, 3, 2, 1]


@pytest.mark.parametrize(("unhashed_first", "order"), [(True, [3, 4, 5, 2, 1]), (False, [4, 5, 3, 2, 1])])
def test_blocks_with_a_hash_are_kept_longest_the_beginning_of_a_prompt_longest_of_all(
    unhashed_first: bool, order: list[int]
) -> None:
    one = pool(unhashed_first=unhashed_first)
    taken = one.take(3)
    one.store(1, A)
    one.store(2, B)
    one.give_back(taken)
    assert one.free == 5
    assert (one.find(A), one.find(B)) == (1, 2)
    assert one.take(3) == order[:3]
    assert (one.find(A), one.find(B)) == (1, 2)
    assert one.take(1) == [2]
    assert (one.find(A), one.find(B)) == (1, None)
    assert one.take(1) == [1]
    assert one.find(A) is None


def test_a_shared_block_is_free_when_its_last_owner_is_gone() -> None:
    one = pool()
    taken = one.take(2)
    one.store(1, A)
    one.share([1])
    one.share([1])
    assert one.ownerless([1]) == 0
    one.give_back(taken)
    one.give_back([1])
    assert one.free == 4
    one.give_back([1])
    assert one.free == 5
    assert one.ownerless([1]) == 1


def test_a_free_block_that_is_found_leaves_the_queue() -> None:
    one = pool()
    taken = one.take(2)
    one.store(1, A)
    one.store(2, B)
    one.give_back(taken)
    one.share([1])
    assert one.free == 4
    assert drained(one) == [3, 4, 5, 2]
    assert one.find(A) == 1


def test_of_equal_blocks_the_oldest_is_found_and_then_the_next() -> None:
    """Blocks with the same content are not merged; each loses the hash by itself."""
    one = pool()
    for block in one.take(3):
        one.store(block, A)
    assert one.find(A) == 1
    one.give_back([1])
    assert one.take(3) == [4, 5, 1]
    assert one.find(A) == 2
    one.give_back([3])
    assert one.take(1) == [3]
    assert one.find(A) == 2
    one.give_back([2])
    assert one.take(1) == [2]
    assert one.find(A) is None


def test_a_reset_forgets_every_hash_unless_a_block_is_in_use() -> None:
    one = pool()
    taken = one.take(2)
    one.store(1, A)
    assert not one.reset()
    assert one.find(A) == 1
    one.give_back(taken)
    assert one.reset()
    assert one.find(A) is None
    assert one.free == 5
    assert drained(one) == [2, 3, 4, 5, 1]


def test_a_pool_needs_a_block_beside_the_null_block() -> None:
    with pytest.raises(ValueError, match="at least two blocks"):
        pool(1)
