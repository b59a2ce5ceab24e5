"""A link shares its bandwidth fairly among what is under way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.engine.links import Link

RATE = 1_000_000
"""A byte in a microsecond."""


def rest(link: Link[int], now_us: int = 0) -> dict[int, int]:
    """When each transfer ended, if nothing else comes."""
    ended: dict[int, int] = {}
    while (wake_us := link.wake_us) is not None:
        now_us = max(now_us, wake_us)
        for key in link.settle(now_us):
            ended[key] = now_us
    return ended


def test_one_transfer_takes_its_bytes_and_the_latency() -> None:
    link: Link[int] = Link(RATE, 50)
    link.begin(1, 1000, 100)
    assert rest(link) == {1: 1150}


def test_two_of_one_size_take_twice_as_long() -> None:
    link: Link[int] = Link(RATE, 0)
    link.begin(1, 1000, 0)
    link.begin(2, 1000, 0)
    assert rest(link) == {1: 2000, 2: 2000}


def test_a_later_one_slows_the_first_only_while_both_are_under_way() -> None:
    link: Link[int] = Link(RATE, 0)
    link.begin(1, 1000, 0)
    link.begin(2, 250, 500)  # from here on half the rate each: the second is done at 1000, with 250 left of the first
    assert rest(link, 500) == {2: 1000, 1: 1250}


def test_one_that_is_given_up_makes_room() -> None:
    link: Link[int] = Link(RATE, 0)
    link.begin(1, 1000, 0)
    link.begin(2, 1000, 0)
    link.drop(2, 1000)
    assert rest(link, 1000) == {1: 1500}


def test_one_with_a_known_end_takes_no_bandwidth() -> None:
    link: Link[int] = Link(RATE, 5)
    link.begin(1, 1000, 0)
    link.end_at(2, 300)
    assert rest(link) == {2: 300, 1: 1005}


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=12))
def test_a_busy_link_is_never_idle_and_never_faster_than_it_can(transfers: list[tuple[int, int]]) -> None:
    """All end when a server that works off the same bytes one by one would be done, and each not before it could."""
    link: Link[int] = Link(RATE, 0)
    ended: dict[int, int] = {}
    free_us = 0
    for key, (at_us, size) in enumerate(sorted(transfers)):
        while (wake_us := link.wake_us) is not None and wake_us <= at_us:
            ended |= dict.fromkeys(link.settle(wake_us), wake_us)
        link.begin(key, size, at_us)
        free_us = max(free_us, at_us) + size
    ended |= rest(link, max(at_us for at_us, _ in transfers))
    assert len(ended) == len(transfers)
    assert max(ended.values()) == pytest.approx(free_us, abs=2)
    for key, (at_us, size) in enumerate(sorted(transfers)):
        assert ended[key] >= at_us + size - 1
