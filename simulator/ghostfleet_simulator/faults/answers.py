"""The failures that are an answer of their own, word for word.

Six are those of llm-d-inference-sim (pkg/llm-d-inference-sim/failures.go), and so is the answer to its header
`X-Return-Error`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ghostfleet_simulator.config import ERRORS, Failure, FailureType


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The answer that a request gets instead of its own: an OpenAI error body with `status` as HTTP status and code."""

    status: int
    error_type: str
    param: str | None
    message: str
    retry_after: int | None = None
    """Whole seconds for `Retry-After`; None for no such header."""


_ANSWERS: Final = {
    FailureType.RATE_LIMIT: (
        429,
        None,
        (
            "Rate limit reached for {model} in organization org-xxx on requests per min (RPM): "
            "Limit 3, Used 3, Requested 1."
        ),
    ),
    FailureType.INVALID_API_KEY: (401, None, "Incorrect API key provided."),
    FailureType.CONTEXT_LENGTH: (
        400,
        "messages",
        "This model's maximum context length is 4096 tokens. However, your messages resulted in 4500 tokens.",
    ),
    FailureType.SERVER_ERROR: (503, None, "The server is overloaded or not ready yet."),
    FailureType.INVALID_REQUEST: (400, "model", "Invalid request: missing required parameter 'model'."),
    FailureType.MODEL_NOT_FOUND: (404, "model", "The model '{model}-nonexistent' does not exist"),
}

_TYPES: Final = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}


def error_type(status: int) -> str:
    """The type that llm-d-inference-sim gives an error with `status`."""
    return _TYPES.get(status, "InternalServerError" if status >= 500 else "APIConnectionError")


def answer(failure: Failure, model: str) -> ErrorAnswer | None:
    """The answer that `failure` is to a request for `model`; None where it is something else."""
    if failure.type not in ERRORS:
        return None
    if failure.type is FailureType.HTTP_ERROR:
        status, param = failure.status or 500, None
        message = failure.message or f"Simulated error (code {status})"
    else:
        status, param, wording = _ANSWERS[failure.type]
        message = wording.replace("{model}", model)
    wait = failure.retry(status)
    retry_after = None if wait is None else -(-wait.ns // 10**9)
    return ErrorAnswer(status, error_type(status), param, message, retry_after)
