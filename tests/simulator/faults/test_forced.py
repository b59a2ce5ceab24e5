"""Headers by which a request asks to fail: what they may say, and that nothing else comes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.config import Ending, Endpoint, FailureType
from ghostfleet_simulator.faults.forced import INJECT, RETURN_ERROR, ForcedInvalid, forced
from ghostfleet_simulator.faults.injector import FaultInjector
from ghostfleet_simulator.units import Duration


def _asked(name: str, value: str, endpoint: Endpoint = Endpoint.CHAT) -> object:
    return forced(endpoint, lambda header: [value] if header == name else [])


def test_a_failure_is_described_as_in_the_configuration() -> None:
    """Type in any case, fields under their names, spaces where one likes."""
    found = forced(Endpoint.CHAT, lambda _: [" truncate ;afterTokens=3; ending = Close ;"])
    assert found is not None
    assert (found.type, found.tokens, found.ending) == (FailureType.TRUNCATE, 3, Ending.CLOSE)
    found = forced(Endpoint.METRICS, lambda _: ["Hang; duration=1.5s"])
    assert found is not None
    assert found.duration == Duration.parse("1500ms")


def test_llm_ds_header_is_for_generation_only() -> None:
    found = forced(Endpoint.COMPLETIONS, lambda name: ["503"] if name == RETURN_ERROR else [])
    assert found is not None
    assert (found.status, found.message) == (503, "Simulated error triggered by X-Return-Error header (code 503)")
    assert _asked(RETURN_ERROR, "503", Endpoint.HEALTH) is None


def test_ours_wins_over_llm_ds() -> None:
    found = forced(Endpoint.CHAT, lambda name: ["500"] if name == RETURN_ERROR else ["Reset"])
    assert found is not None
    assert found.type is FailureType.RESET


@given(st.sampled_from([INJECT, RETURN_ERROR]), st.text(max_size=60), st.sampled_from(Endpoint))
def test_any_text_is_a_failure_or_is_refused_in_words(name: str, text: str, endpoint: Endpoint) -> None:
    refused = ""
    try:
        _asked(name, text, endpoint)
    except ForcedInvalid as error:
        refused = str(error)
    assert not refused or name in refused.lower()


FIELDS = [
    "afterTokens=1",
    "duration=1s",
    "ending=Reset",
    "exitCode=2",
    "status=500",
    "retryAfter=3",
    "match=x",
    "type=x",
]


@given(st.sampled_from(FailureType), st.lists(st.sampled_from(FIELDS), max_size=3), st.sampled_from(Endpoint))
def test_a_described_failure_is_of_that_type_and_of_a_request(
    kind: FailureType, fields: list[str], endpoint: Endpoint
) -> None:
    try:
        found = _asked(INJECT, "; ".join([kind.value, *fields]), endpoint)
    except ForcedInvalid:
        return
    assert found is not None
    assert getattr(found, "type", None) is kind
    assert getattr(found, "at_requests", False)


def test_headers_count_only_where_they_may() -> None:
    injector = FaultInjector(0)
    injector.use(())
    assert injector.decide(Endpoint.CHAT, "m", lambda _: ["Hang"]) is None
    injector.use((), headers=True)
    found = injector.decide(Endpoint.CHAT, "m", lambda name: ["Hang"] if name == INJECT else [])
    assert found is not None
    assert found.type is FailureType.HANG


@pytest.mark.parametrize("text", ["", "  ", ";", "Hang; duration=1s; duration=2s", "Hang; duration"])
def test_what_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ForcedInvalid):
        _asked(INJECT, text)
