"""Failure injection: decides which requests fail and with what answer. Performing it is the caller's part.

The six answers are those of llm-d-inference-sim (pkg/llm-d-inference-sim/failures.go), word for word. There a rate
decides whether a request fails and a second draw decides how; here every type has its own probability and one draw
decides both, so that the sequence of decisions depends on the seed and on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from ghostfleet_simulator.config import Failures, FailureType


@dataclass(frozen=True, slots=True)
class Fault:
    """The answer that a request gets instead of its own: an OpenAI error body with `status` as HTTP status and code."""

    type: FailureType
    status: int
    error_type: str
    param: str | None
    message: str


_ANSWERS: Final = {
    FailureType.RATE_LIMIT: (
        429,
        "RateLimitError",
        None,
        (
            "Rate limit reached for {model} in organization org-xxx on requests per min (RPM): "
            "Limit 3, Used 3, Requested 1."
        ),
    ),
    FailureType.INVALID_API_KEY: (401, "AuthenticationError", None, "Incorrect API key provided."),
    FailureType.CONTEXT_LENGTH: (
        400,
        "BadRequestError",
        "messages",
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 4500 tokens.",
    ),
    FailureType.SERVER_ERROR: (503, "InternalServerError", None, "The server is overloaded or not ready yet."),
    FailureType.INVALID_REQUEST: (
        400,
        "BadRequestError",
        "model",
        "Invalid request: missing required parameter 'model'.",
    ),
    FailureType.MODEL_NOT_FOUND: (404, "NotFoundError", "model", "The model '{model}-nonexistent' does not exist"),
}


def fault(failure: FailureType, model: str) -> Fault:
    """The answer of one type of failure to a request for `model`."""
    status, error_type, param, message = _ANSWERS[failure]
    return Fault(failure, status, error_type, param, message.replace("{model}", model))


class FaultInjector:
    """Decides for one request after the other, from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"{seed}/faults")
        self._thresholds: tuple[tuple[float, FailureType], ...] = ()

    def use(self, failures: Failures) -> None:
        """Take over probabilities; the next decision follows them, and the generator goes on where it is."""
        total, thresholds = 0.0, []
        for failure in failures:
            # Rounded so that shares that add up to 1 do so here too: they have nine decimals at most.
            total = round(total + float(failure.probability), 12)
            thresholds.append((total, failure.type))
        self._thresholds = tuple(thresholds)

    def decide(self, model: str) -> Fault | None:
        """Whether a request for `model` fails, and how. Draws once, and not at all while no failures are set."""
        if not self._thresholds:
            return None
        drawn = self._rng.random()
        return next((fault(failure, model) for below, failure in self._thresholds if drawn < below), None)
