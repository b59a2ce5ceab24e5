"""Lengths of random answers: the distribution of llm-d-inference-sim."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.text.lengths import SplitMix64, length_of_choice, length_within

DRAWS = 20_000


def test_the_generator_is_splitmix64() -> None:
    """The first numbers of the published reference implementation with seed 1234567."""
    rng = SplitMix64()
    rng._state = 1234567
    assert [rng.next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_seeds_of_several_parts_tell_their_parts_apart() -> None:
    firsts = {SplitMix64(a, b, c).next() for a in range(-5, 5) for b in range(10) for c in range(10)}
    assert len(firsts) == 1000


@given(st.integers(), st.integers(1, 10**9))
def test_numbers_stay_in_their_range(seed: int, bound: int) -> None:
    rng = SplitMix64(seed)
    assert 0 <= rng.below(bound) < bound
    assert bound <= rng.between(bound, bound + 3) <= bound + 3
    assert 0 <= rng.uniform() < 1


@given(st.integers(0, 2**64), st.integers(1, 3_000_000))
def test_a_length_is_within_the_limit(seed: int, limit: int) -> None:
    rng = SplitMix64(seed)
    assert 1 <= length_within(rng, limit) <= limit
    assert 1 <= length_of_choice(rng, limit) <= limit


@pytest.mark.parametrize(
    ("limit", "edges"),
    [
        (101, [1, 21, 41, 61, 81, 101]),
        (51, [1, 11, 21, 31, 41, 51]),
        (1000, [1, 21, 41, 61, 981, 1000]),
        (200, [1, 21, 41, 61, 181, 200]),
    ],
)
def test_the_buckets_have_the_edges_and_weights_of_llm_d_inference_sim(limit: int, edges: list[int]) -> None:
    rng = SplitMix64(limit)
    drawn = Counter(length_within(rng, limit) for _ in range(DRAWS))
    shares = [sum(drawn[length] for length in range(low, high)) / DRAWS for low, high in itertools.pairwise(edges)]
    assert shares == pytest.approx([0.20, 0.30, 0.20, 0.05, 0.10], abs=0.015)
    assert drawn[limit] / DRAWS == pytest.approx(0.15, abs=0.015)
    assert len(drawn) > 0.8 * min(limit, 200)


@pytest.mark.parametrize("limit", [1, 2, 6])
def test_a_small_limit_is_uniform(limit: int) -> None:
    rng = SplitMix64(1)
    drawn = Counter(length_within(rng, limit) for _ in range(DRAWS))
    assert [drawn[length] / DRAWS for length in range(1, limit + 1)] == pytest.approx([1 / limit] * limit, abs=0.015)


def test_without_a_limit_lengths_are_normal_around_40() -> None:
    rng = SplitMix64(7)
    drawn = [length_of_choice(rng, 10_000) for _ in range(DRAWS)]
    # Drawing again below 1 moves the mean up by about a token.
    assert statistics.mean(drawn) == pytest.approx(41.1, abs=0.6)
    assert statistics.stdev(drawn) == pytest.approx(18.9, abs=0.6)
    assert max(drawn) > 90


def test_with_little_context_left_lengths_are_uniform() -> None:
    rng = SplitMix64(7)
    drawn = Counter(length_of_choice(rng, 10) for _ in range(DRAWS))
    assert [drawn[length] / DRAWS for length in range(1, 11)] == pytest.approx([0.1] * 10, abs=0.015)
