"""Bodies to requests, or to the errors that vLLM answers them with.

A body is decoded once, checked for what spans several fields (`api.checks`) and then validated. Where it is wrong, the
same is done again as slowly as FastAPI does it, so that the answer holds its very words.
"""

from __future__ import annotations

import email.message
import itertools
import json
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from ghostfleet_simulator.api import checks
from ghostfleet_simulator.api.errors import invalid_body, malformed_json, unreadable_body, wrong_media_type

_MOST_ITEMS: Final = 512
"""Of a body with more keys and items than these not every error is told."""


def _declared_json(content_type: str) -> bool:
    """Whether FastAPI decodes a body of this type before it looks at anything else."""
    header = email.message.Message()
    header["content-type"] = content_type
    subtype = header.get_content_subtype()
    return header.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        raise malformed_json(error.msg, error.pos) from None
    except (ValueError, RecursionError):  # not a text at all, digits without end, brackets without end
        raise unreadable_body() from None


def _failing_fast(schema: Any) -> Any:
    """The schema with lists that are given up at their first wrong item, of any number that they hold."""
    if isinstance(schema, dict):
        copy = {key: _failing_fast(value) for key, value in schema.items()}
        return copy | {"fail_fast": True} if copy.get("type") == "list" else copy
    return [_failing_fast(item) for item in schema] if type(schema) is list else schema


def _is_small(data: Any) -> bool:
    """Whether all that may be wrong can be told: each wrong item of a list is an error per branch of a union."""
    left, seen = [data], 0
    while left and seen <= _MOST_ITEMS:
        value = left.pop()
        if isinstance(value, dict | list):
            seen += len(value)
            left.extend(itertools.islice(value.values() if isinstance(value, dict) else value, _MOST_ITEMS))
    return seen <= _MOST_ITEMS


T = TypeVar("T")


class Parser(Generic[T]):
    """Makes requests of one type out of bodies.

    Errors of a body of more than 512 items name the first wrong item of each list; vLLM takes minutes to tell all.
    `check` looks at what spans several fields and raises `ApiError`; `order` names the fields as they stand in
    vLLM's model; errors come in that order.
    """

    def __init__(self, type_: Any, check: checks.Check | None = None, order: str = "") -> None:
        self.adapter: TypeAdapter[T] = TypeAdapter(type_)
        # A validator takes the finished ones of its models where it may, and those would collect every error.
        self._brief: Final = SchemaValidator(_failing_fast(self.adapter.core_schema), _use_prebuilt=False)
        self._check = check
        self._rank = {name: rank for rank, name in enumerate(order.split())}

    def parse(self, body: bytes, content_type: str) -> T:
        """The request in `body`. Raises `ApiError` with vLLM's words, `HTTPException` where FastAPI has the word."""
        if content_type.lower().partition(";")[0] != "application/json":
            if body and _declared_json(content_type):
                _decoded(body)
            raise wrong_media_type()
        try:
            data = msgspec.json.decode(body)
        except (ValueError, RecursionError):  # msgspec's own errors are values that are wrong
            data = _decoded(body) if body else None
        if self._check is not None and type(data) is dict:
            self._check(data)
        try:
            return cast("T", self._brief.validate_python(data, from_attributes=True))
        except ValidationError:
            return self._exactly(_decoded(body) if body else None)

    def _exactly(self, data: Any) -> T:
        if data is None:
            raise invalid_body([{"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}])
        if self._check is not None and type(data) is dict:
            self._check(data)
        judge = self.adapter if _is_small(data) else self._brief
        try:
            return cast("T", judge.validate_python(data, from_attributes=True))
        except ValidationError as error:
            found = error.errors(include_url=False)
        found.sort(key=lambda item: self._rank.get(str(item["loc"][0]), len(self._rank)) if item["loc"] else 0)
        raise invalid_body([{**item, "loc": ("body", *item["loc"])} for item in found])
