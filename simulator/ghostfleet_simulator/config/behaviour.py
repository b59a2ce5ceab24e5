"""What a server answers, and how much of it."""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from ghostfleet_simulator.config.base import Flag, Settings, Whole, problem

_Tokens = Annotated[Whole, Field(ge=1, le=10_485_760)]


class AnswerMode(StrEnum):
    """What a server says."""

    ECHO = "Echo"
    RANDOM = "Random"


class LengthDistribution(StrEnum):
    """How the lengths of random answers are distributed."""

    AUTO = "Auto"
    CONSTANT = "Constant"
    UNIFORM = "Uniform"
    LOG_NORMAL = "LogNormal"
    HISTOGRAM = "Histogram"


class LengthBucket(Settings):
    """Answers of similar length."""

    up_to: _Tokens
    """Longest answer of the bucket in tokens; its shortest is one longer than the longest of the bucket before."""

    weight: Annotated[Whole, Field(ge=0, le=1_000_000_000)]
    """How often an answer is of this bucket, against the other weights."""


class AnswerLength(Settings):
    """How long random answers are, in tokens, their end-of-sequence token included.

    A request's limit cuts an answer off, and with `ignore_eos` every answer is as long as the limit.
    """

    distribution: Annotated[LengthDistribution, Flag("answer-length")] = LengthDistribution.AUTO
    """`Auto` is llm-d-inference-sim's: a histogram up to the request's limit, or about 40 tokens without one.
    `Constant` takes `mean`, `Uniform` lies from `min` to `max`, `LogNormal` takes `mean` and `stdDev` and stays within
    `min` and `max`, `Histogram` takes `buckets`."""

    mean: Annotated[_Tokens, Flag("answer-length-mean")] = 128
    """Tokens of a constant answer, or mean of the lognormal distribution."""

    std_dev: Annotated[Whole, Field(ge=0, le=10_485_760), Flag("answer-length-std-dev")] = 64
    """Standard deviation of the lognormal distribution in tokens."""

    min: Annotated[_Tokens, Flag("answer-length-min")] = 1
    """Shortest answer of a uniform or lognormal distribution."""

    max: Annotated[_Tokens, Flag("answer-length-max")] = 4096
    """Longest answer of a uniform or lognormal distribution."""

    buckets: Annotated[tuple[LengthBucket, ...], Field(max_length=64)] = ()
    """The histogram, its buckets from short to long; within one every length is equally frequent."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if self.min > self.max:
            raise problem("min", f"{self.min} is above max={self.max}")
        ends = [bucket.up_to for bucket in self.buckets]
        for index, (before, end) in enumerate(pairwise(ends), 1):
            if end <= before:
                raise problem(f"buckets[{index}].upTo", f"{end} is not above {before}, the end of the bucket before")
        if self.distribution is LengthDistribution.HISTOGRAM and not any(bucket.weight for bucket in self.buckets):
            raise problem("buckets", "a histogram needs a bucket with a weight above 0")
        return self


class Answers(Settings):
    """What the server answers."""

    mode: Annotated[AnswerMode, Flag("mode")] = AnswerMode.RANDOM
    """`Echo` repeats the prompt or the last message; `Random` makes sentences of random length."""

    length: AnswerLength = AnswerLength()
    """How long random answers are."""
