"""Quantities as people write them (strings with units) and as the program keeps them (exact numbers).

Every quantity is accepted by the same rule in a flag, a file, the admin API and a custom resource, so a value that
works on a laptop works on a cluster: the API server takes integers and strings, never floats, and so do these types.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

_NS_PER: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_BYTES_PER: Final = {unit: 1000**power for power, unit in enumerate(("", "k", "M", "G", "T"))} | {
    unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)
}
_LARGEST_BYTES: Final = 2**50
_LONGEST_NS: Final = 366 * 24 * 3600 * 10**9

DURATION_PATTERN: Final = r"^[0-9]{1,12}(\.[0-9]{1,9})?([nuµm]?s|m|h)?$"
PROBABILITY_PATTERN: Final = r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?|(100(\.0{1,7})?|[0-9]{1,2}(\.[0-9]{1,7})?)%)$"
SIZE_PATTERN: Final = r"^[0-9]{1,16}(\.[0-9]{1,9})?(k|M|G|T|Ki|Mi|Gi|Ti)?$"
FACTOR_PATTERN: Final = r"^[0-9]{1,6}(\.[0-9]{1,9})?$"


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(number: Decimal) -> str:
    """Shortest decimal notation without an exponent: `1.50` -> `1.5`, `1E+2` -> `100`."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


class _Quantity:
    """A value with one canonical spelling; two spellings of one value are equal and hash alike."""

    __slots__ = ("_value",)
    _pattern: str
    _max_length: int
    _integers: bool

    def __init__(self, value: Any) -> None:
        self._value = value

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The quantity that `raw` (an int or a string) spells; `ValueError` says what is allowed."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(raw: object) -> _Quantity:
            if isinstance(raw, cls):
                return raw
            try:
                return cls.parse(raw)
            except ValueError as error:
                raise PydanticCustomError("quantity", "{reason}", {"reason": str(error)}) from None

        as_text = core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema())
        return core_schema.no_info_plain_validator_function(validate, serialization=as_text)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        if cls._integers:
            return {
                "x-kubernetes-int-or-string": True,
                "pattern": cls._pattern,
                "maxLength": cls._max_length,
                "minimum": 0,
            }
        return {"type": "string", "pattern": cls._pattern, "maxLength": cls._max_length}


class Duration(_Quantity):
    """A span of time >= 0, exact to the nanosecond: `20ms`, `1.5s`, `250us`; a bare number is milliseconds."""

    __slots__ = ()
    _pattern = DURATION_PATTERN
    _max_length = 25
    _integers = True

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The duration that `raw` spells: a whole number of milliseconds or a string with a unit."""
        if isinstance(raw, bool) or not isinstance(raw, (int, str)):
            raise ValueError(  # noqa: TRY004 - bad input of any kind is one kind of error here
                f"{_shown(raw)} is not a duration: write a whole number of milliseconds or a string with a unit, "
                "such as 20, '12.5ms' or '1.5s'"
            )
        text = str(raw)
        if text.startswith("-"):
            raise ValueError(f"a duration cannot be negative: {_shown(text)}")
        match = re.fullmatch(DURATION_PATTERN, text)
        if not match:
            raise ValueError(
                f"{_shown(text)} is not a duration: write a number and one of the units ns, us, ms, s, m, h "
                "(no unit means ms)"
            )
        unit = match.group(2) or "ms"
        number = text[: -len(match.group(2))] if match.group(2) else text
        ns = Decimal(number) * _NS_PER[unit]
        if ns != int(ns):
            raise ValueError(f"{text!r} is finer than a nanosecond")
        if ns > _LONGEST_NS:
            raise ValueError(f"{text!r} is longer than a year")
        return cls(int(ns))

    @property
    def ns(self) -> int:
        """Whole nanoseconds."""
        return int(self._value)

    @property
    def us(self) -> int:
        """Microseconds, rounded to the nearest; the engine's resolution."""
        return (self.ns + 500) // 1000

    @property
    def seconds(self) -> float:
        """Seconds."""
        return self.ns / 1e9

    def __str__(self) -> str:
        if self.ns == 0:
            return "0ms"
        unit = next(u for u in ("s", "ms", "us", "ns") if self.ns >= _NS_PER[u])
        return _plain(Decimal(self.ns) / _NS_PER[unit]) + unit


class Size(_Quantity):
    """A number of bytes > 0: `512Mi`, `1.5G`, a bare number is bytes; units as in Kubernetes."""

    __slots__ = ()
    _pattern = SIZE_PATTERN
    _max_length = 28
    _integers = True

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The size that `raw` spells: a whole number of bytes or a string with a unit."""
        text = "" if isinstance(raw, bool) or not isinstance(raw, (int, str)) else str(raw)
        match = re.fullmatch(SIZE_PATTERN, text)
        if not match:
            raise ValueError(
                f"{_shown(raw)} is not a size: write a whole number of bytes or a string with one of the units "
                "k, M, G, T, Ki, Mi, Gi, Ti, such as '512Mi'"
            )
        unit = match.group(2) or ""
        size = Decimal(text.removesuffix(unit)) * _BYTES_PER[unit]
        if size != int(size):
            raise ValueError(f"{raw!r} is no whole number of bytes")
        if not 0 < size <= _LARGEST_BYTES:
            raise ValueError(f"{raw!r} is not between 1 byte and 1024Ti")
        return cls(int(size))

    @property
    def bytes(self) -> int:
        """Bytes."""
        return int(self._value)

    def __str__(self) -> str:
        units = sorted(_BYTES_PER, key=lambda unit: -_BYTES_PER[unit])
        unit = next(unit for unit in units if self.bytes % _BYTES_PER[unit] == 0)
        return f"{self.bytes // _BYTES_PER[unit]}{unit}"


class Probability(_Quantity):
    """A share of all cases, 0 to 1: `0.05` or `5%`, always as a string (custom resources hold no floats)."""

    __slots__ = ()
    _pattern = PROBABILITY_PATTERN
    _max_length = 12
    _integers = False

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The share that `raw` spells: a string, as a decimal or in percent."""
        if not isinstance(raw, str) or not re.fullmatch(PROBABILITY_PATTERN, raw):
            raise ValueError(
                f"{_shown(raw)} is not a probability: write a string from '0' to '1' or '0%' to '100%', "
                "such as '0.05' or '5%'"
            )
        return cls(Decimal(raw[:-1]) / 100 if raw.endswith("%") else Decimal(raw))

    def __float__(self) -> float:
        return float(self._value)

    def __str__(self) -> str:
        return _plain(self._value)


class Factor(_Quantity):
    """A plain multiplier >= 0: `2` or `"1.5"`."""

    __slots__ = ()
    _pattern = FACTOR_PATTERN
    _max_length = 16
    _integers = True

    @classmethod
    def parse(cls, raw: object) -> Self:
        """The factor that `raw` spells: a whole number or a decimal string."""
        if isinstance(raw, bool) or not isinstance(raw, (int, str)) or not re.fullmatch(FACTOR_PATTERN, str(raw)):
            raise ValueError(
                f"{_shown(raw)} is not a factor: write a whole number or a decimal string of at least 0, "
                "such as 2 or '1.5'"
            )
        return cls(Decimal(str(raw)))

    def __float__(self) -> float:
        return float(self._value)

    def __str__(self) -> str:
        return _plain(self._value)
