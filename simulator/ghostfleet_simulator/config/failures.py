"""Failures to inject: which there are, which requests they hit, and what each of them can be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.config.base import Name, Settings, Whole, distinct, problem
from ghostfleet_simulator.units import Duration, Probability, Size


class FailureType(StrEnum):
    """What can be made to go wrong. The first six are llm-d-inference-sim's, under CamelCase names."""

    RATE_LIMIT = "RateLimit"
    INVALID_API_KEY = "InvalidAPIKey"
    CONTEXT_LENGTH = "ContextLength"
    SERVER_ERROR = "ServerError"
    INVALID_REQUEST = "InvalidRequest"
    MODEL_NOT_FOUND = "ModelNotFound"
    HTTP_ERROR = "HTTPError"
    HANG = "Hang"
    STALL = "Stall"
    RESET = "Reset"
    TRUNCATE = "Truncate"
    CRASH = "Crash"
    UNREADY = "Unready"
    MEMORY_GROWTH = "MemoryGrowth"
    KV_EVENT_LOSS = "KVEventLoss"
    KV_EVENT_DELAY = "KVEventDelay"
    KV_EVENT_DUPLICATE = "KVEventDuplicate"
    KV_TRANSFER_FAILURE = "KVTransferFailure"
    KV_TRANSFER_DELAY = "KVTransferDelay"


TYPED_ERRORS: Final = tuple(FailureType)[:6]
"""The answers that llm-d-inference-sim injects."""

ERRORS: Final = (*TYPED_ERRORS, FailureType.HTTP_ERROR)
"""The failures that are an answer of their own."""

EVENT_FAILURES: Final = (FailureType.KV_EVENT_LOSS, FailureType.KV_EVENT_DELAY, FailureType.KV_EVENT_DUPLICATE)
"""The failures that befall batches of KV events."""

TRANSFER_FAILURES: Final = (FailureType.KV_TRANSFER_FAILURE, FailureType.KV_TRANSFER_DELAY)
"""The failures that befall KV cache on its way from another server."""


class Endpoint(StrEnum):
    """Routes that failures can hit."""

    CHAT = "Chat"
    COMPLETIONS = "Completions"
    GENERATE = "Generate"
    MODELS = "Models"
    TOKENIZE = "Tokenize"
    DETOKENIZE = "Detokenize"
    HEALTH = "Health"
    METRICS = "Metrics"
    VERSION = "Version"
    LOAD = "Load"


GENERATING: Final = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.GENERATE})
"""The endpoints that answer with tokens; what a failure hits that names no endpoint."""


class Ending(StrEnum):
    """How a connection ends behind half a frame."""

    CLEAN = "Clean"
    CLOSE = "Close"
    RESET = "Reset"


class HeaderMatch(Settings):
    """A header that a request must have."""

    name: Annotated[str, StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
    """Name of the header, in upper or lower case."""

    value: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Its whole value, exactly; without one the header only has to be there."""


class Match(Settings):
    """The requests that a failure may hit: all conditions given must hold; without any, every generation request."""

    models: Annotated[tuple[Name, ...], Field(max_length=16), AfterValidator(distinct)] = ()
    """Models as requests name them, any of which is meant; a request that names none means the first served name."""

    endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=len(Endpoint)), AfterValidator(distinct)] = ()
    """Endpoints, any of which is meant; without any, `Chat`, `Completions` and `Generate`."""

    headers: Annotated[tuple[HeaderMatch, ...], Field(max_length=8)] = ()
    """Headers, all of which the request must have."""

    @property
    def reach(self) -> frozenset[Endpoint]:
        """The endpoints that are meant."""
        return frozenset(self.endpoints) or GENERATING

    @model_validator(mode="after")
    def _models_are_named(self) -> Self:
        if self.models and not self.reach <= GENERATING:
            names = ", ".join(sorted(GENERATING))
            raise problem("models", f"only requests to {names} can be told apart by model")
        return self


# What each type can be told beside `type` and `name`; `probability` and `match` mean a request.
_PER_REQUEST: Final = frozenset({"probability", "match"})
_RETRY: Final = _PER_REQUEST | {"retry_after"}
_OPTIONS: Final = {
    **dict.fromkeys(TYPED_ERRORS, _PER_REQUEST),
    FailureType.RATE_LIMIT: _RETRY,
    FailureType.SERVER_ERROR: _RETRY,
    FailureType.HTTP_ERROR: _RETRY | {"status", "message"},
    FailureType.HANG: _PER_REQUEST | {"duration"},
    FailureType.STALL: _PER_REQUEST | {"after_tokens", "duration"},
    FailureType.RESET: _PER_REQUEST | {"after_tokens"},
    FailureType.TRUNCATE: _PER_REQUEST | {"after_tokens", "ending"},
    FailureType.CRASH: _PER_REQUEST | {"after_tokens", "after", "exit_code"},
    FailureType.UNREADY: frozenset({"period", "duty"}),
    FailureType.MEMORY_GROWTH: frozenset({"growth", "limit"}),
    FailureType.KV_EVENT_LOSS: frozenset({"probability"}),
    FailureType.KV_EVENT_DELAY: frozenset({"probability", "duration"}),
    FailureType.KV_EVENT_DUPLICATE: frozenset({"probability"}),
    FailureType.KV_TRANSFER_FAILURE: frozenset({"probability"}),
    FailureType.KV_TRANSFER_DELAY: frozenset({"probability", "duration"}),
}
_REQUIRED: Final = {
    FailureType.HTTP_ERROR: ("status",),
    FailureType.MEMORY_GROWTH: ("growth", "limit"),
    FailureType.KV_EVENT_DELAY: ("duration",),
    FailureType.KV_TRANSFER_DELAY: ("duration",),
}
AT_REQUESTS: Final = tuple(kind for kind in FailureType if "match" in _OPTIONS[kind])
"""The failures that befall single requests."""

BY_RATE: Final = tuple(kind for kind in AT_REQUESTS if kind not in _REQUIRED)
"""The failures that need to be told nothing but how often."""

_SECOND: Final = Duration(1_000_000_000)
_ALWAYS: Final = Probability.parse("1")


class Failure(Settings):
    """One thing that goes wrong, for some requests or for the server as a whole."""

    type: FailureType
    """What goes wrong."""

    name: Annotated[str, StringConstraints(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")] = ""
    """Tells several failures of one type apart."""

    probability: Probability = _ALWAYS
    """Share of the matching requests that fail this way, `"0.05"` or `"5%"`; failures with the same `match` together at
    most 1. Where several match and add up to more, the ones listed first come first. Of what befalls KV events
    or transfers, the share of batches or of transfers, each failure on its own."""

    match: Match = Match()
    """The requests that may fail."""

    status: Annotated[Whole, Field(ge=400, le=599)] | None = None
    """HTTP status of an `HTTPError`; required there."""

    message: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """What an `HTTPError` says; `Simulated error (code <status>)` if not given."""

    retry_after: Duration | None = None
    """`Retry-After` of a `RateLimit`, `ServerError` or `HTTPError`, rounded up to seconds. If not given, it is 1 s with
    the statuses 429 and 503, and not sent with others."""

    duration: Duration | None = None
    """How long a `Hang` or `Stall` lasts; without it, until the client leaves or the failure is switched off. How much
    later batches go out under a `KVEventDelay`, or transfers begin under a `KVTransferDelay`; required there."""

    after_tokens: Annotated[Whole, Field(ge=0, le=10_485_760)] | None = None
    """Tokens of an answer that come before a `Stall`, `Reset` or `Truncate` (1 if not given), or before a `Crash` (at
    once, before any answer, if not given). An answer with fewer fails in place of its last token."""

    ending: Ending | None = None
    """What follows the half frame of a `Truncate`: `Clean` ends the HTTP response properly, `Close` closes the
    connection amid the response, `Reset` resets it. `Clean` if not given."""

    exit_code: Annotated[Whole, Field(ge=0, le=255)] | None = None
    """Exit code of a `Crash`; 1 if not given."""

    after: Duration | None = None
    """A `Crash` this long after it came into force, or after the start, and not at a request."""

    period: Duration | None = None
    """Time in which `Unready` comes and goes once; without it, the server is not ready for good."""

    duty: Probability | None = None
    """Share of each `period` in which the server is not ready, at its end; `50%` if not given."""

    growth: Size | None = None
    """Memory that `MemoryGrowth` takes per second; required there."""

    limit: Size | None = None
    """Memory at which `MemoryGrowth` stops; required there."""

    @model_validator(mode="after")
    def _fits_the_type(self) -> Self:
        allowed = _OPTIONS[self.type]
        for field, info in type(self).model_fields.items():
            if field in ("type", "name", *allowed) or getattr(self, field) == info.default:
                continue
            meant = ", ".join(kind.value for kind, options in _OPTIONS.items() if field in options)
            raise problem(info.alias or field, f"means nothing for {self.type.value}, only for {meant}")
        for field in _REQUIRED.get(self.type, ()):
            if getattr(self, field) is None:
                raise problem(field, f"required for {self.type.value}, but not given")
        return self

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.type is FailureType.STALL:
            if self.after_tokens == 0:
                raise problem("afterTokens", "a Stall comes after at least 1 token; a Hang comes before the first")
            if not self.match.reach <= GENERATING:
                raise problem("match.endpoints", "only answers made of tokens can stall: Chat, Completions, Generate")
        if self.after is not None:
            for field in ("probability", "match", "after_tokens"):
                if getattr(self, field) != type(self).model_fields[field].default:
                    raise problem("after", "a Crash comes either after a time or at requests, not both")
        if self.period is not None and self.period.ns < 100_000_000:
            raise problem("period", f"{self.period} is below 100ms")
        if self.duty is not None and self.period is None:
            raise problem("duty", "is a share of period, which is not given")
        return self

    @property
    def tokens(self) -> int:
        """Tokens that come before it."""
        if self.after_tokens is not None:
            return self.after_tokens
        return 1 if self.type in (FailureType.STALL, FailureType.RESET, FailureType.TRUNCATE) else 0

    @property
    def at_requests(self) -> bool:
        """Whether it befalls single requests, and not the server as a whole."""
        return self.type in AT_REQUESTS and self.after is None

    def retry(self, status: int) -> Duration | None:
        """What `Retry-After` says in an answer with `status`."""
        return self.retry_after or (_SECOND if status in (429, 503) else None)


def _possible(failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
    seen = set()
    shares: dict[Match, float] = defaultdict(float)
    for failure in failures:
        key = (failure.type, failure.name)
        if key in seen:
            called = f"{failure.type.value}" + (f" with the name {failure.name!r}" if failure.name else "")
            advice = "give one of them another name, or both a share of their own in one entry"
            raise PydanticCustomError(
                "settings", "{called} is listed twice; {advice}", {"called": called, "advice": advice}
            )
        seen.add(key)
        if failure.at_requests:
            shares[failure.match] += float(failure.probability)
    total = max(shares.values(), default=0)
    if total > 1 + 1e-9:
        raise PydanticCustomError(
            "settings", "the probabilities add up to {total}, more than 1", {"total": f"{total:g}"}
        )
    return failures


Failures = Annotated[tuple[Failure, ...], Field(max_length=32), AfterValidator(_possible)]

_SHARE_UNITS: Final = 10**9


def equal_shares(percent: int, types: Sequence[FailureType]) -> list[dict[str, str]]:
    """Failures, to be validated, that together hit so many per cent of the requests, each type as many as the next."""
    total = percent * _SHARE_UNITS // 100
    units = dict.fromkeys(types, 0)
    for index, failure in enumerate(types):
        units[failure] += total // len(types) + (index < total % len(types))
    return [
        {"type": failure.value, "probability": format(Decimal(share) / _SHARE_UNITS, "f")}
        for failure, share in units.items()
        if share
    ]
