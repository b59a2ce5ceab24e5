"""Failures that a request asks for itself, by a header, where the server lets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ghostfleet_simulator.config import AT_REQUESTS, GENERATING, Endpoint, Failure, FailureType
from ghostfleet_simulator.problems import InvalidInput, nearest, validated

INJECT: Final = "x-ghostfleet-inject"
"""`Stall` or `Stall; afterTokens=3; duration=2s`: a failure as in the configuration."""

RETURN_ERROR: Final = "x-return-error"
"""llm-d-inference-sim's: a status."""

_NOT_HERE: Final = frozenset({"name", "probability", "after"})

Lookup = Callable[[str], list[str]]
"""The values of a header by its lower-case name."""


class Asked(Failure):
    """A failure that a request asked for itself; never equal to one of the configuration."""


class ForcedInvalid(Exception):
    """A header that asks for what there is not; the message is for the client."""


def forced(endpoint: Endpoint, header: Lookup) -> Asked | None:
    """The failure that a request to `endpoint` asks for, ours before llm-d-inference-sim's; raises `ForcedInvalid`."""
    if asked := header(INJECT):
        return _described(asked[0], endpoint)
    if endpoint in GENERATING and (asked := header(RETURN_ERROR)):
        return _status(asked[0])
    return None


def _described(text: str, endpoint: Endpoint) -> Asked:
    word, *parts = (part.strip() for part in text.split(";"))
    types = {kind.value.lower(): kind for kind in AT_REQUESTS}
    if word.lower() not in types:
        guess = nearest(word.lower(), types)
        allowed = f"did you mean {types[guess].value!r}?" if guess else f"allowed are {', '.join(AT_REQUESTS)}"
        raise ForcedInvalid(f"{INJECT}: {word[:80]!r} is no failure of a request; {allowed}")
    wanted: dict[str, object] = {"type": types[word.lower()].value, "match": {"endpoints": [endpoint.value]}}
    for part in filter(None, parts):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in wanted:
            raise ForcedInvalid(f"{INJECT}: {part[:80]!r} is not a field=value, or is there twice")
        if key in _NOT_HERE:
            raise ForcedInvalid(f"{INJECT}: {key}: cannot be set for a single request")
        wanted[key] = value
    try:
        return validated(Asked, wanted)
    except InvalidInput as error:
        raise ForcedInvalid(f"{INJECT}: {error}") from None


def _status(text: str) -> Asked:
    """llm-d-inference-sim takes any number; one that is no status of an error cannot be answered with one."""
    word = text.strip()
    if not (word.isascii() and word.isdecimal() and len(word) == 3 and 400 <= int(word) <= 599):
        raise ForcedInvalid(f"X-Return-Error: {word[:80]!r} is not an HTTP status from 400 to 599")
    message = f"Simulated error triggered by X-Return-Error header (code {int(word)})"
    return Asked(type=FailureType.HTTP_ERROR, status=int(word), message=message)
