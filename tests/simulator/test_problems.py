"""Validation errors in plain words: the path of the field, what is wrong, what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest, validated

_MODEL = {"model": {"name": "m"}}


def _problems(raw: object, prefix: str = "") -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        validated(ServerConfig, raw, prefix)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, "model: required, but not given"),
        ([], "must be an object with named fields"),
        ({**_MODEL, "listen": 8000}, "listen: must be an object with named fields"),
        ({**_MODEL, "failures": {}}, "failures: must be a list"),
        ({**_MODEL, "xyz": 1}, "xyz: unknown field; allowed are "),
        (
            {**_MODEL, "profile": {"simple": {"interTokenLatncy": 1}}},
            "profile.simple.interTokenLatncy: unknown field; did you mean 'interTokenLatency'?",
        ),
        (
            {**_MODEL, "failures": [{"type": "RateLimit", "probability": "0.1", "probabilty": "0.1"}]},
            "failures[0].probabilty: unknown field; did you mean 'probability'?",
        ),
        (
            {**_MODEL, "failures": [{"type": "RateLimit", "probability": 0.1}]},
            "failures[0].probability: 0.1 is not a probability: write a string",
        ),
        ({**_MODEL, "answers": {"mode": "echo"}}, "answers.mode: Input should be 'Echo' or 'Random'"),
        ({**_MODEL, "listen": {"port": True}}, "listen.port: true is not a whole number"),
        ({"model": {"name": "a b"}}, "model.name: 'a b' does not match the pattern "),
        (
            {**_MODEL, "profile": {"simple": {"interTokenLatencyStdDev": "5ms", "interTokenLatency": "10ms"}}},
            "profile.simple.interTokenLatencyStdDev: 5ms is too large for a mean of 10ms: at most 30 % of the mean",
        ),
    ],
)
def test_each_mistake_is_told_with_its_path(raw: object, expected: str) -> None:
    (problem,) = _problems(raw)
    assert problem.startswith(expected)


def test_all_mistakes_are_told_at_once() -> None:
    raw = {"model": {"nam": "m"}, "seed": -1}
    assert [p.split(":")[0] for p in _problems(raw, "spec.server")] == [
        "spec.server.model.name",
        "spec.server.model.nam",
        "spec.server.seed",
    ]


def test_fields_have_one_spelling_in_files() -> None:
    # Two accepted spellings would let a patch with one lose against the file's other.
    raw = {**_MODEL, "kv_cache": {"blockSize": 32}}
    assert _problems(raw) == ["kv_cache: unknown field; did you mean 'kvCache'?"]


def test_a_huge_wrong_value_is_not_repeated_whole() -> None:
    (problem,) = _problems({"model": {"name": "a " + "b" * 200}})
    assert len(problem) < 160


def test_the_words_of_an_input_are_those_of_its_problems() -> None:
    error = InvalidInput([Problem("a.b", "is wrong"), Problem("", "is worse")])
    assert str(error) == "a.b: is wrong; is worse"


@pytest.mark.parametrize(("word", "expected"), [("blocksize", "blockSize"), ("zzz", None)])
def test_nearest_only_guesses_what_is_near(word: str, expected: Any) -> None:
    assert nearest(word, ["blockSize", "blocks"]) == expected
