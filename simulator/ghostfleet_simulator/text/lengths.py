"""How long a random answer is, and the generator behind it."""

from __future__ import annotations

import math
from itertools import accumulate

from ghostfleet_simulator.config import AnswerLength, LengthDistribution

_MASK = (1 << 64) - 1

MEAN, DEVIATION = 40, 20
"""Tokens of an answer whose request set no limit, and their standard deviation."""

_CUMULATIVE = (0.20, 0.50, 0.70, 0.75, 0.85)
"""Probability of the first, first two, ... buckets; what is left is the probability of exactly the limit."""
_BUCKETS = len(_CUMULATIVE)
_FIXED, _FLEXIBLE = 20, 3
"""Tokens in a bucket of a large limit, and the bucket that stretches over what the others leave."""


class SplitMix64:
    """A small seeded generator (SplitMix64): 64 bits of state, the same numbers on every machine and Python."""

    __slots__ = ("_state",)

    def __init__(self, *seed: int) -> None:
        self._state = 0
        for part in seed:
            self._state ^= part & _MASK
            self._state = self.next()

    def next(self) -> int:
        """The next 64 bits."""
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, bound: int) -> int:
        """A whole number from 0 up to, but without, `bound`."""
        return (self.next() * bound) >> 64

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def uniform(self) -> float:
        """A number from 0 up to, but without, 1."""
        return (self.next() >> 11) * 2.0**-53

    def normal(self) -> float:
        """A number of the standard normal distribution (Box and Muller)."""
        return math.sqrt(-2.0 * math.log(1.0 - self.uniform())) * math.cos(2.0 * math.pi * self.uniform())


def length_within(rng: SplitMix64, limit: int) -> int:
    """Tokens of an answer to a request that set the limit, from 1 to `limit`.

    llm-d-inference-sim's histogram (pkg/dataset/histogram_helper.go): in 15 of 100 cases the limit itself, else uniform
    in one of five buckets. Up to 101 tokens these are of equal size; above, they hold 20 tokens each but for the
    fourth, which stretches.
    """
    if limit <= _BUCKETS + 1:
        return rng.between(1, limit)
    drawn = rng.uniform()
    bucket = next((index for index, edge in enumerate(_CUMULATIVE) if drawn < edge), None)
    if bucket is None:
        return limit
    if limit <= _FIXED * _BUCKETS + 1:
        size = (limit - 1) / _BUCKETS
        low, high = int(size * bucket) + 1, int(size * (bucket + 1))
    else:
        stretch = limit - _FIXED * _BUCKETS
        low = _FIXED * bucket + 1 + (stretch if bucket > _FLEXIBLE else 0)
        high = _FIXED * (bucket + 1) + (stretch if bucket >= _FLEXIBLE else 0)
    return rng.between(low, min(high, limit - 1))


def length_of_choice(rng: SplitMix64, limit: int) -> int:
    """Tokens of an answer to a request that set no limit, from 1 to `limit`, which is what is left of the context.

    llm-d-inference-sim's: Normal(40, 20), drawn again until it is in range; uniform where fewer than 20 tokens are
    left.
    """
    if limit < MEAN - DEVIATION:
        return rng.between(1, limit)
    while True:
        drawn = round(MEAN + DEVIATION * rng.normal())
        if 1 <= drawn <= limit:
            return drawn


class Lengths:
    """How long the answers of a server are."""

    __slots__ = ("_ends", "_length", "_mu", "_sigma", "_starts")

    def __init__(self, length: AnswerLength) -> None:
        self._length = length
        self._ends = list(accumulate(bucket.weight for bucket in length.buckets))
        self._starts = [1, *(bucket.up_to + 1 for bucket in length.buckets)]
        # Of the logarithm, so that mean and deviation are those of the length itself.
        variance = math.log1p((length.std_dev / length.mean) ** 2)
        self._sigma = math.sqrt(variance)
        self._mu = math.log(length.mean) - variance / 2

    def draw(self, rng: SplitMix64, limit: int, *, limit_given: bool) -> int:
        """Tokens of an answer, from 1 to `limit`, which is the request's if `limit_given`, else the context's."""
        length = self._length
        match length.distribution:
            case LengthDistribution.CONSTANT:
                drawn = length.mean
            case LengthDistribution.UNIFORM:
                drawn = rng.between(length.min, length.max)
            case LengthDistribution.LOG_NORMAL:
                exact = math.exp(min(self._mu + self._sigma * rng.normal(), 40.0))
                drawn = min(max(round(exact), length.min), length.max)
            case LengthDistribution.HISTOGRAM:
                at = rng.below(self._ends[-1])
                bucket = next(index for index, end in enumerate(self._ends) if at < end)
                drawn = rng.between(self._starts[bucket], length.buckets[bucket].up_to)
            case _:
                return length_within(rng, limit) if limit_given else length_of_choice(rng, limit)
        return min(drawn, limit)
