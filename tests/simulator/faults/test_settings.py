"""What can be written under `failures`, and what is told of what cannot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ghostfleet_simulator.config import AT_REQUESTS, BY_RATE, Failure, FailureType, LiveConfig
from ghostfleet_simulator.problems import InvalidInput, validated

DOCS = Path(__file__).parents[3] / "docs" / "faults.md"
NEEDED: dict[str, dict[str, Any]] = {
    "HTTPError": {"status": 500},
    "MemoryGrowth": {"growth": "1Mi", "limit": "1Gi"},
    "KVEventDelay": {"duration": "1s"},
    "KVTransferDelay": {"duration": "1s"},
}


def failures(*entries: dict[str, Any]) -> tuple[Failure, ...]:
    return validated(LiveConfig, {"failures": list(entries)}).failures


@pytest.mark.parametrize("kind", FailureType)
def test_every_type_can_be_written_with_its_name_and_what_it_needs(kind: FailureType) -> None:
    [failure] = failures({"type": kind.value, **NEEDED.get(kind.value, {})})
    assert float(failure.probability) == 1
    written = failure.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert failures(written) == (failure,)


def test_types_that_a_rate_is_enough_for_need_nothing_else() -> None:
    for kind in BY_RATE:
        assert failures({"type": kind.value, "probability": "0.5"})[0].at_requests
    assert set(AT_REQUESTS) - set(BY_RATE) == {FailureType.HTTP_ERROR}


def test_several_of_one_type_have_names() -> None:
    found = failures(
        {"type": "Hang", "name": "scrapes", "match": {"endpoints": ["Metrics"]}},
        {"type": "Hang", "name": "probes", "match": {"endpoints": ["Health"]}},
        {"type": "Hang"},
    )
    assert [failure.name for failure in found] == ["scrapes", "probes", ""]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"type": "Hang"}, {"type": "Hang"}], "failures: Hang is listed twice; give one of them another name"),
        ([{"type": "Hang", "name": "a"}] * 2, "failures: Hang with the name 'a' is listed twice"),
        ([{"type": "Hang", "name": "A b"}], "failures[0].name: "),
        ([{"type": "Hagn"}], "failures[0].type: "),
        (
            [{"type": "Hang", "probability": "0.7"}, {"type": "Reset", "probability": "0.4"}],
            "failures: the probabilities add up to 1.1, more than 1",
        ),
        ([{"type": "RateLimit", "duration": "1s"}], "failures[0].duration: means nothing for RateLimit, only for Hang"),
        (
            [{"type": "Hang", "afterTokens": 1}],
            "failures[0].afterTokens: means nothing for Hang, only for Stall, Reset",
        ),
        ([{"type": "Unready", "probability": "0.5"}], "failures[0].probability: means nothing for Unready"),
        ([{"type": "Unready", "match": {"models": ["m"]}}], "failures[0].match: means nothing for Unready"),
        ([{"type": "Unready", "duty": "10%"}], "failures[0].duty: is a share of period, which is not given"),
        ([{"type": "Unready", "period": "1ms"}], "failures[0].period: 1ms is below 100ms"),
        ([{"type": "HTTPError"}], "failures[0].status: required for HTTPError, but not given"),
        ([{"type": "HTTPError", "status": 200}], "failures[0].status: "),
        ([{"type": "MemoryGrowth", "growth": "1Mi"}], "failures[0].limit: required for MemoryGrowth, but not given"),
        ([{"type": "MemoryGrowth", "growth": "0", "limit": 1}], "failures[0].growth: '0' is not between 1 byte"),
        ([{"type": "Stall", "afterTokens": 0}], "failures[0].afterTokens: a Stall comes after at least 1 token"),
        (
            [{"type": "Stall", "match": {"endpoints": ["Chat", "Health"]}}],
            "failures[0].match.endpoints: only answers made of tokens can stall",
        ),
        (
            [{"type": "Hang", "match": {"endpoints": ["Health"], "models": ["m"]}}],
            "failures[0].match.models: only requests to Chat, Completions, Generate can be told apart by model",
        ),
        ([{"type": "Hang", "match": {"endpoints": ["Chat", "Chat"]}}], "failures[0].match.endpoints: the names must"),
        ([{"type": "Hang", "match": {"headers": [{"name": "a b"}]}}], "failures[0].match.headers[0].name: 'a b' does"),
        (
            [{"type": "Hang", "match": {"header": []}}],
            "failures[0].match.header: unknown field; did you mean 'headers'?",
        ),
        ([{"type": "Crash", "after": "1s", "probability": "0.1"}], "failures[0].after: a Crash comes either after a"),
        ([{"type": "Crash", "exitCode": 256}], "failures[0].exitCode: "),
        ([{"type": "Truncate", "ending": "Bang"}], "failures[0].ending: "),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(entries: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        failures(*entries)
    assert str(refused.value).startswith(words)


def test_every_example_of_the_documentation_is_valid() -> None:
    """The YAML in docs/faults.md, and each type that it describes is in some of it."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    shown = {failure.type for block in blocks for failure in validated(LiveConfig, yaml.safe_load(block)).failures}
    alike = {FailureType.INVALID_API_KEY, FailureType.CONTEXT_LENGTH, FailureType.INVALID_REQUEST}
    assert shown == set(FailureType) - alike - {FailureType.MODEL_NOT_FOUND}


def test_failures_with_different_matches_may_add_up_to_more_than_one() -> None:
    found = failures(
        {"type": "Hang", "match": {"models": ["a"]}},
        {"type": "Reset", "match": {"models": ["b"]}},
        {"type": "ServerError", "probability": "0.5"},
    )
    assert len(found) == 3
