"""The failures that are answers: llm-d-inference-sim's six to the letter, and errors of any status."""

from __future__ import annotations

import pytest

from ghostfleet_simulator.config import ERRORS, Failure, FailureType
from ghostfleet_simulator.faults.answers import ErrorAnswer, answer
from ghostfleet_simulator.problems import validated


def _failure(kind: str, **more: object) -> Failure:
    return validated(Failure, {"type": kind, **more})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "RateLimit",
            ErrorAnswer(
                429,
                "RateLimitError",
                None,
                "Rate limit reached for org/m in organization org-xxx on requests per min (RPM): "
                "Limit 3, Used 3, Requested 1.",
                1,
            ),
        ),
        ("InvalidAPIKey", ErrorAnswer(401, "AuthenticationError", None, "Incorrect API key provided.")),
        (
            "ContextLength",
            ErrorAnswer(
                400,
                "BadRequestError",
                "messages",
                "This model's maximum context length is 4096 tokens. However, your messages resulted in 4500 tokens.",
            ),
        ),
        (
            "ServerError",
            ErrorAnswer(503, "InternalServerError", None, "The server is overloaded or not ready yet.", 1),
        ),
        (
            "InvalidRequest",
            ErrorAnswer(400, "BadRequestError", "model", "Invalid request: missing required parameter 'model'."),
        ),
        (
            "ModelNotFound",
            ErrorAnswer(404, "NotFoundError", "model", "The model 'org/m-nonexistent' does not exist"),
        ),
    ],
)
def test_each_of_the_six_has_its_answer(kind: str, expected: ErrorAnswer) -> None:
    assert answer(_failure(kind), "org/m") == expected


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        *((400, "BadRequestError"), (401, "AuthenticationError"), (403, "PermissionDeniedError")),
        *((404, "NotFoundError"), (422, "UnprocessableEntityError"), (429, "RateLimitError")),
        *((500, "InternalServerError"), (599, "InternalServerError"), (418, "APIConnectionError")),
    ],
)
def test_an_error_of_any_status_has_the_type_that_goes_with_it(status: int, error_type: str) -> None:
    told = answer(_failure("HTTPError", status=status), "m")
    assert told is not None
    assert (told.status, told.error_type, told.message) == (status, error_type, f"Simulated error (code {status})")


@pytest.mark.parametrize(("given", "told"), [("0", 0), ("1ns", 1), ("1s", 1), ("1001ms", 2), ("2m", 120)])
def test_when_to_come_back_is_rounded_up_to_seconds(given: str, told: int) -> None:
    found = answer(_failure("HTTPError", status=500, retryAfter=given), "m")
    assert found is not None
    assert found.retry_after == told


def test_a_name_with_braces_is_taken_as_it_is() -> None:
    told = answer(_failure("ModelNotFound"), "{model}{0}")
    assert told is not None
    assert told.message == "The model '{model}{0}-nonexistent' does not exist"


@pytest.mark.parametrize(
    "kind",
    sorted(
        set(FailureType)
        - set(ERRORS)
        - {FailureType.MEMORY_GROWTH, FailureType.KV_EVENT_DELAY, FailureType.KV_TRANSFER_DELAY}
    ),
)
def test_other_failures_are_no_answers(kind: FailureType) -> None:
    assert answer(Failure(type=kind), "m") is None
