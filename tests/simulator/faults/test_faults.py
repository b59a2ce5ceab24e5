"""Failure injection: the six answers to the letter, in the shares that were asked for, the same with one seed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.config import Failure, Failures, FailureType
from ghostfleet_simulator.faults import Fault, FaultInjector
from ghostfleet_simulator.units import Probability


def _failures(**shares: str) -> Failures:
    return tuple(
        Failure(type=FailureType(name), probability=Probability.parse(share)) for name, share in shares.items()
    )


def _decisions(seed: int, failures: Failures, requests: int) -> list[FailureType | None]:
    injector = FaultInjector(seed)
    injector.use(failures)
    return [decided.type if (decided := injector.decide("m")) else None for _ in range(requests)]


@pytest.mark.parametrize(
    "expected",
    [
        Fault(
            FailureType.RATE_LIMIT,
            429,
            "RateLimitError",
            None,
            "Rate limit reached for org/m in organization org-xxx on requests per min (RPM): "
            "Limit 3, Used 3, Requested 1.",
        ),
        Fault(FailureType.INVALID_API_KEY, 401, "AuthenticationError", None, "Incorrect API key provided."),
        Fault(
            FailureType.CONTEXT_LENGTH,
            400,
            "BadRequestError",
            "messages",
            "This model's maximum context length is 4096 tokens. However, your messages resulted in 4500 tokens.",
        ),
        Fault(FailureType.SERVER_ERROR, 503, "InternalServerError", None, "The server is overloaded or not ready yet."),
        Fault(
            FailureType.INVALID_REQUEST,
            400,
            "BadRequestError",
            "model",
            "Invalid request: missing required parameter 'model'.",
        ),
        Fault(
            FailureType.MODEL_NOT_FOUND, 404, "NotFoundError", "model", "The model 'org/m-nonexistent' does not exist"
        ),
    ],
    ids=lambda fault: fault.type.value,
)
def test_each_type_has_its_answer(expected: Fault) -> None:
    injector = FaultInjector(0)
    injector.use(_failures(**{expected.type.value: "100%"}))
    assert injector.decide("org/m") == expected


def test_a_name_with_braces_is_taken_as_it_is() -> None:
    injector = FaultInjector(0)
    injector.use(_failures(ModelNotFound="1"))
    decided = injector.decide("{model}{0}")
    assert decided is not None
    assert decided.message == "The model '{model}{0}-nonexistent' does not exist"


def test_nothing_fails_unless_asked_for() -> None:
    assert _decisions(1, (), 100) == [None] * 100
    assert _decisions(1, _failures(RateLimit="0"), 100) == [None] * 100


@given(st.integers(0, 2**63 - 1))
def test_the_same_seed_gives_the_same_decisions(seed: int) -> None:
    failures = _failures(RateLimit="30%", ServerError="30%")
    assert _decisions(seed, failures, 50) == _decisions(seed, failures, 50)


def test_another_seed_gives_other_decisions() -> None:
    failures = _failures(RateLimit="50%")
    assert _decisions(1, failures, 100) != _decisions(2, failures, 100)


def test_each_type_comes_in_its_share() -> None:
    requests = 20_000
    shares = {FailureType.RATE_LIMIT: 0.2, FailureType.CONTEXT_LENGTH: 0.05, None: 0.75}
    counted = Counter(_decisions(7, _failures(RateLimit="20%", ContextLength="0.05"), requests))
    assert set(counted) == set(shares)
    for failure, share in shares.items():
        assert counted[failure] / requests == pytest.approx(share, abs=0.015)


def test_shares_that_add_up_to_one_leave_no_request_alone() -> None:
    thirds = _failures(RateLimit="33.3333333%", ServerError="33.3333333%", InvalidRequest="33.3333334%")
    assert None not in _decisions(3, thirds, 5000)


def test_a_switch_takes_effect_with_the_next_request() -> None:
    injector = FaultInjector(0)
    injector.use(_failures(RateLimit="1"))
    assert injector.decide("m") is not None
    injector.use(())
    assert injector.decide("m") is None
    injector.use(_failures(ServerError="1"))
    decided = injector.decide("m")
    assert decided is not None
    assert decided.type is FailureType.SERVER_ERROR


def test_a_decision_is_one_draw_so_the_same_requests_fail_under_another_type() -> None:
    # Which requests fail depends on the seed and the total share, not on how many types share it.
    one = _decisions(5, _failures(RateLimit="40%"), 500)
    two = _decisions(5, _failures(ServerError="10%", RateLimit="30%"), 500)
    assert [failure is None for failure in one] == [failure is None for failure in two]
