"""Answers of a length that a person asked for."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from ghostfleet_simulator.config import AnswerLength, ServerConfig
from ghostfleet_simulator.problems import InvalidInput, validated
from ghostfleet_simulator.text.answer import RandomAnswers
from ghostfleet_simulator.text.lengths import Lengths, SplitMix64
from ghostfleet_simulator.text.tokenizer import Tokenizer

DRAWS = 5_000
LIMIT = 100_000


def drawn(length: dict[str, Any], limit: int = LIMIT, *, limit_given: bool = True) -> list[int]:
    lengths, rng = Lengths(validated(AnswerLength, length)), SplitMix64(1)
    return [lengths.draw(rng, limit, limit_given=limit_given) for _ in range(DRAWS)]


def test_a_constant_length_is_one_length_with_and_without_a_limit() -> None:
    assert set(drawn({"distribution": "Constant", "mean": 77})) == {77}
    assert set(drawn({"distribution": "Constant", "mean": 77}, limit_given=False)) == {77}
    assert set(drawn({"distribution": "Constant", "mean": 77}, limit=50)) == {50}


def test_a_uniform_length_takes_every_value_between_its_ends() -> None:
    found = drawn({"distribution": "Uniform", "min": 20, "max": 29})
    assert set(found) == set(range(20, 30))
    assert statistics.mean(found) == pytest.approx(24.5, abs=0.2)


def test_a_lognormal_length_has_the_mean_and_the_deviation_asked_for() -> None:
    found = drawn({"distribution": "LogNormal", "mean": 400, "stdDev": 200, "max": LIMIT})
    assert statistics.mean(found) == pytest.approx(400, rel=0.03)
    assert statistics.stdev(found) == pytest.approx(200, rel=0.1)
    assert statistics.median(found) < 380, "its tail is on the right"
    assert set(drawn({"distribution": "LogNormal", "mean": 400, "stdDev": 0})) == {400}
    held = drawn({"distribution": "LogNormal", "mean": 400, "stdDev": 300, "min": 300, "max": 500})
    assert (min(held), max(held)) == (300, 500)


def test_a_histogram_length_follows_its_weights() -> None:
    buckets = [{"upTo": 10, "weight": 1}, {"upTo": 20, "weight": 0}, {"upTo": 100, "weight": 3}]
    found = drawn({"distribution": "Histogram", "buckets": buckets})
    short = [length for length in found if length <= 10]
    assert len(short) / DRAWS == pytest.approx(0.25, abs=0.03)
    assert set(short) == set(range(1, 11))
    assert {length for length in found if length > 10} == set(range(21, 101))


def test_an_answer_is_as_long_as_drawn_its_end_included(tokenizer: Tokenizer) -> None:
    length = validated(AnswerLength, {"distribution": "Constant", "mean": 30})
    answers = RandomAnswers(tokenizer, 0, length=length)
    answer = answers.answer([1], "", max_tokens=100)
    assert (answer.length, answer.finish_reason) == (30, "stop")
    assert answer.token_ids(29, 30) == [tokenizer.eos_token_id]
    cut = answers.answer([1], "", max_tokens=12)
    assert (cut.length, cut.finish_reason) == (12, "length")
    assert answers.answer([1], "", max_tokens=50, ignore_eos=True).length == 50
    assert answers.answer([1], "", max_tokens=50, min_tokens=40).length == 41


@pytest.mark.parametrize(
    ("length", "path", "words"),
    [
        ({"min": 9, "max": 8}, "min", "9 is above max=8"),
        ({"distribution": "Histogram"}, "buckets", "needs a bucket"),
        ({"distribution": "Histogram", "buckets": [{"upTo": 5, "weight": 0}]}, "buckets", "weight above 0"),
        (
            {"buckets": [{"upTo": 5, "weight": 1}, {"upTo": 5, "weight": 1}]},
            "buckets[1].upTo",
            "not above 5",
        ),
        ({"mean": 0}, "mean", "greater than or equal to 1"),
    ],
)
def test_what_makes_no_length_is_refused_with_its_place(length: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validated(ServerConfig, {"model": {"name": "m"}, "answers": {"length": length}})
    (problem,) = caught.value.problems
    assert problem.path == f"answers.length.{path}"
    assert words in problem.message
