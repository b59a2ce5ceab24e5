"""What a server does apart from serving: failures to inject, what it answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.config.base import Flag, Settings
from ghostfleet_simulator.units import Probability


class FailureType(StrEnum):
    """The answers that llm-d-inference-sim injects, under CamelCase names."""

    RATE_LIMIT = "RateLimit"
    INVALID_API_KEY = "InvalidAPIKey"
    CONTEXT_LENGTH = "ContextLength"
    SERVER_ERROR = "ServerError"
    INVALID_REQUEST = "InvalidRequest"
    MODEL_NOT_FOUND = "ModelNotFound"


class Failure(Settings):
    """One kind of injected failure."""

    type: FailureType
    """What the client gets instead of an answer."""

    probability: Probability
    """Share of the requests that fail this way, `"0.05"` or `"5%"`; all failures together at most 1."""


class AnswerMode(StrEnum):
    """What a server says."""

    ECHO = "Echo"
    RANDOM = "Random"


class Answers(Settings):
    """What the server answers."""

    mode: Annotated[AnswerMode, Flag("mode")] = AnswerMode.RANDOM
    """`Echo` repeats the prompt or the last message; `Random` makes sentences of random length."""


def _total(failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
    types = [failure.type for failure in failures]
    for failure_type in types:
        if types.count(failure_type) > 1:
            raise PydanticCustomError("settings", "{type} is listed twice", {"type": failure_type.value})
    total = sum(float(failure.probability) for failure in failures)
    if total > 1 + 1e-9:
        raise PydanticCustomError(
            "settings", "the probabilities add up to {total}, more than 1", {"total": f"{total:g}"}
        )
    return failures


Failures = Annotated[tuple[Failure, ...], Field(max_length=len(FailureType)), AfterValidator(_total)]
