"""Descriptions of fields come from the docstrings under them, once somebody asks."""

from __future__ import annotations

from ghostfleet_simulator.config.base import Settings
from ghostfleet_simulator.descriptions import describe


class _Inner(Settings):
    size: int = 1
    """How large
    it is."""

    plain: int = 2


class _Base(Settings):
    name: str = ""
    """Said by the base."""


class _Outer(_Base):
    inners: tuple[_Inner, ...] = ()
    """Some of them."""


def test_docstrings_are_in_the_schema_of_a_model_and_of_what_is_in_it() -> None:
    """Of fields that it inherits too; a field without one has no description."""
    assert "description" not in _Outer.model_json_schema()["properties"]["name"]
    describe(_Outer)
    schema = _Outer.model_json_schema()
    assert schema["properties"]["name"]["description"] == "Said by the base."
    assert schema["properties"]["inners"]["description"] == "Some of them."
    inner = schema["$defs"]["_Inner"]["properties"]
    assert inner["size"]["description"] == "How large\nit is."
    assert "description" not in inner["plain"]
    assert _Outer(inners=(_Inner(size=3),)).inners[0].size == 3
