"""Which requests fail: in the shares that were asked for, only those that match, the same with one seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.config import GENERATING, Endpoint, Failure, Failures, FailureType, LiveConfig, Match
from ghostfleet_simulator.faults.injector import FaultInjector
from ghostfleet_simulator.problems import InvalidInput, validated

Request = tuple[Endpoint, str, Mapping[str, str]]
PLAIN: Request = (Endpoint.CHAT, "m", {})
SHARES = ["0", "0.1", "25%", "0.5", "1"]


def failures(*entries: dict[str, Any]) -> Failures:
    return validated(LiveConfig, {"failures": list(entries)}).failures


def shares(**by_type: str) -> Failures:
    return failures(*({"type": kind, "probability": share} for kind, share in by_type.items()))


def lookup(headers: Mapping[str, str]) -> Callable[[str], list[str]]:
    return lambda name: [value for key, value in headers.items() if key.lower() == name]


def decided(seed: int, wanted: Failures, requests: Sequence[Request]) -> list[Failure | None]:
    injector = FaultInjector(seed)
    injector.use(wanted)
    return [injector.decide(endpoint, model, lookup(headers)) for endpoint, model, headers in requests]


def types(seed: int, wanted: Failures, number: int) -> list[FailureType | None]:
    return [found and found.type for found in decided(seed, wanted, [PLAIN] * number)]


# --- shares and seeds ----------------------------------------------------------------------------


def test_nothing_fails_unless_asked_for() -> None:
    assert types(1, (), 100) == [None] * 100
    assert types(1, shares(RateLimit="0"), 100) == [None] * 100


def test_without_failures_there_is_nothing_to_decide() -> None:
    """What the routes look at before anything else; process failures leave it alone."""
    injector = FaultInjector(0)
    assert not injector.armed
    injector.use(failures({"type": "Unready"}, {"type": "Crash", "after": "1h"}))
    assert not injector.armed
    injector.use((), headers=True)
    assert injector.armed
    injector.use(shares(Hang="1"))
    assert injector.armed


@given(st.integers(0, 2**63 - 1))
def test_the_same_seed_gives_the_same_decisions(seed: int) -> None:
    wanted = shares(RateLimit="30%", Stall="30%")
    assert types(seed, wanted, 50) == types(seed, wanted, 50)


def test_another_seed_gives_other_decisions() -> None:
    assert types(1, shares(RateLimit="50%"), 100) != types(2, shares(RateLimit="50%"), 100)


def test_each_type_comes_in_its_share() -> None:
    number = 20_000
    expected = {FailureType.RATE_LIMIT: 0.2, FailureType.RESET: 0.05, None: 0.75}
    counted = Counter(types(7, shares(RateLimit="20%", Reset="0.05"), number))
    assert set(counted) == set(expected)
    for kind, share in expected.items():
        assert counted[kind] / number == pytest.approx(share, abs=0.015)


def test_shares_that_add_up_to_one_leave_no_request_alone() -> None:
    thirds = shares(RateLimit="33.3333333%", ServerError="33.3333333%", InvalidRequest="33.3333334%")
    assert None not in types(3, thirds, 5000)


def test_a_switch_takes_effect_with_the_next_request() -> None:
    injector = FaultInjector(0)
    for wanted, expected in ((shares(RateLimit="1"), FailureType.RATE_LIMIT), ((), None), (shares(Hang="1"), "Hang")):
        injector.use(wanted)
        found = injector.decide(Endpoint.CHAT, "m", lookup({}))
        assert (found and found.type) == expected


def test_a_decision_is_one_draw_so_the_same_requests_fail_under_another_type() -> None:
    """Which requests fail depends on the seed and the total share, not on how many types share it."""
    one = types(5, shares(RateLimit="40%"), 500)
    two = types(5, shares(ServerError="10%", RateLimit="30%"), 500)
    assert [kind is None for kind in one] == [kind is None for kind in two]


# --- matching ------------------------------------------------------------------------------------

MODELS = ["m", "n", "adapter"]
HEADERS: list[Mapping[str, str]] = [{}, {"x-user": "a"}, {"X-User": "b"}, {"x-user": "a", "X-Debug": ""}]
requests = st.tuples(st.sampled_from(Endpoint), st.sampled_from(MODELS), st.sampled_from(HEADERS))
header_matches = st.sampled_from(
    [{"name": "X-User"}, {"name": "x-user", "value": "a"}, {"name": "x-debug", "value": ""}]
)


@st.composite
def entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Failures of one type under different names, narrowed in any way that the settings let."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        generating = draw(st.booleans())
        endpoints = st.lists(st.sampled_from(sorted(GENERATING if generating else Endpoint)), unique=True, max_size=3)
        match: dict[str, Any] = {"endpoints": draw(endpoints)}
        match["headers"] = draw(st.lists(header_matches, max_size=2))
        if generating:
            match["models"] = draw(st.lists(st.sampled_from(MODELS), unique=True, max_size=2))
        share = draw(st.sampled_from(SHARES))
        found.append({"type": "ServerError", "name": f"n{number}", "probability": share, "match": match})
    return found


def fits(entry: dict[str, Any], request: Request) -> bool:
    """The rule as the documentation says it."""
    endpoint, model, headers = request
    match = entry["match"]
    given = {name.lower(): value for name, value in headers.items()}
    return (
        endpoint.value in (match["endpoints"] or ["Chat", "Completions", "Generate"])
        and (not match.get("models") or model in match["models"])
        and all(h["name"].lower() in given for h in match["headers"])
        and all(given[h["name"].lower()] == h["value"] for h in match["headers"] if "value" in h)
    )


def accepted(raw: list[dict[str, Any]]) -> Failures | None:
    """The failures, unless those with the same match add up to more than 1."""
    try:
        return failures(*raw)
    except InvalidInput:
        return None


@given(entries(), st.lists(requests, max_size=30), st.integers(0, 1000))
def test_only_what_matches_fails_and_what_surely_fails_does(
    raw: list[dict[str, Any]], asked: list[Request], seed: int
) -> None:
    """A request fails by one of the failures that match it; if those add up to 1, it does fail."""
    if (wanted := accepted(raw)) is None:
        by_match: Counter[Match] = Counter()
        for failure in (validated(Failure, entry) for entry in raw):
            by_match[failure.match] += round(float(failure.probability) * 100)
        assert max(by_match.values()) > 100
        return
    for request, found in zip(asked, decided(seed, wanted, asked), strict=True):
        fitting = [failure for failure, entry in zip(wanted, raw, strict=True) if fits(entry, request)]
        likely = [failure for failure in fitting if float(failure.probability) > 0]
        assert found is None or found in likely
        if sum(float(failure.probability) for failure in likely) >= 1:
            assert found is not None
        if likely and float(likely[0].probability) == 1:
            assert found is likely[0], "the one listed first comes first"


@given(st.lists(requests, max_size=60), st.integers(0, 1000), st.sampled_from(["x-user", "x-none"]))
def test_narrowing_a_failure_spares_requests_and_changes_no_other(asked: list[Request], seed: int, header: str) -> None:
    """Of the requests that fail without a condition, exactly those that meet it still fail with it."""
    wide = decided(seed, failures({"type": "Hang", "probability": "0.5"}), asked)
    narrow = decided(
        seed, failures({"type": "Hang", "probability": "0.5", "match": {"headers": [{"name": header}]}}), asked
    )
    for request, before, after in zip(asked, wide, narrow, strict=True):
        meets = any(name.lower() == header for name in request[2])
        assert (after is not None) == (before is not None and meets)


@given(st.lists(st.tuples(st.booleans(), requests), max_size=60), st.integers(0, 1000))
def test_scrapes_do_not_change_what_happens_to_generation(mixed: list[tuple[bool, Request]], seed: int) -> None:
    """The decisions about generation requests are the same whatever is scraped between them."""
    everywhere = [endpoint.value for endpoint in Endpoint]
    wanted = failures({"type": "HTTPError", "status": 500, "probability": "0.5", "match": {"endpoints": everywhere}})
    asked = [request for _, request in mixed]
    alone = [request for request in asked if request[0] in GENERATING]
    among = [found for request, found in zip(asked, decided(seed, wanted, asked), strict=True) if request in alone]
    assert among == decided(seed, wanted, alone)
