"""Metrics that show what they are told to show: which series, and what of."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from ghostfleet_simulator.units import DURATION_PATTERN, Duration

_NUMBER: Final = r"[+-]?[0-9]{1,15}(\.[0-9]{1,9})?(e[+-]?[0-9]{1,2})?"
_SERIES: Final = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="[^"\\]*",?)*)\})?')
_LABEL: Final = re.compile(r'([a-z_]+)="([^"\\]*)"')
_COUNTS: Final = r"\[ *([0-9]{1,15} *(, *[0-9]{1,15} *)*)?\]"
_MOST: Final = 64
METRIC_PREFIXES: Final = ("vllm:", "sglang:", "trtllm_", "nv_")
"""What the names of an engine's metrics begin with, by dialect."""


class Shape(StrEnum):
    """How a value goes from one number to another, as llm-d-inference-sim names it."""

    OSCILLATE = "oscillate"
    RAMP = "ramp"
    RAMP_RESET = "rampreset"
    SQUARE_WAVE = "squarewave"


@dataclass(frozen=True, slots=True)
class Course:
    """A value that changes by itself."""

    shape: Shape
    start: float
    end: float
    period_s: float

    def at(self, seconds: float) -> float:
        """The value `seconds` after it began: a sine about the middle, a line that is held or begun anew at its end,
        or the one number in the first half of each period and the other in the second."""
        turn = seconds / self.period_s
        match self.shape:
            case Shape.OSCILLATE:
                return (self.start + self.end) / 2 + (self.end - self.start) / 2 * math.sin(2 * math.pi * turn)
            case Shape.RAMP:
                return self.start + (self.end - self.start) * min(turn, 1.0)
            case Shape.RAMP_RESET:
                return self.start + (self.end - self.start) * (turn % 1.0)
            case Shape.SQUARE_WAVE:
                return self.start if turn % 1.0 < 0.5 else self.end


class Selector(NamedTuple):
    """One series by its family's name and the labels that are its own."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


_COURSE: Final = rf"({'|'.join(Shape)}):{_NUMBER}:{_NUMBER}:{DURATION_PATTERN[1:-1]}"


def parse_selector(text: str) -> Selector:
    """The series that `text` names, as `name` or `name{label="value"}`; `ValueError` says what is allowed."""
    match = _SERIES.fullmatch(text)
    if not match or not text.startswith(METRIC_PREFIXES):
        raise ValueError(
            f"write the name of a series that begins with {' or '.join(METRIC_PREFIXES)}, "
            """its labels as in {a="b"}"""
        )
    return Selector(match[1], tuple(sorted(_LABEL.findall(match[2] or ""))))


def parse_value(text: str) -> float | Course | tuple[int, ...]:
    """What a series is to show: a number, a course, or the counts of a histogram's buckets; raises `ValueError`."""
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if re.fullmatch(_COUNTS, text):
        return tuple(int(count) for count in text[1:-1].split(",") if count.strip())
    if re.fullmatch(_COURSE, text):
        shape, start, end, length = text.split(":")
        period = Duration.parse(length)
        if not period.ns:
            raise ValueError("the period must be above 0")
        return Course(Shape(shape), float(start), float(end), period.seconds)
    shapes = ", ".join(Shape)
    raise ValueError(
        f"write a number, SHAPE:START:END:PERIOD with one of {shapes}, or the counts of a histogram's buckets as [1, 2]"
    )


def _checked(fakes: dict[str, str]) -> dict[str, str]:
    seen: dict[Selector, str] = {}
    for series, value in fakes.items():
        try:
            selector = parse_selector(series)
            if selector in seen:
                raise ValueError(f"is the same series as {seen[selector]}")  # noqa: TRY301 - told like the others
            seen[selector] = series
            parse_value(value)
        except ValueError as error:
            raise PydanticCustomError("settings", "{key}: {why}", {"key": series, "why": str(error)}) from None
    return fakes


FakeMetrics = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=1024)],
        Annotated[str, StringConstraints(max_length=1024, pattern=rf"^({_NUMBER}|{_COURSE}|{_COUNTS})$")],
    ],
    Field(max_length=_MOST),
    AfterValidator(_checked),
]
