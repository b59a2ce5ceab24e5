"""Cells that hold what is measured, and the declarations of the families in which they are exposed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar


class Kind(StrEnum):
    """Type of a family, as `# TYPE` writes it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True)
class Family:
    """Declaration of one family.

    `name` is without the suffixes of the exposition (`_total`, `_bucket`, ...). `bounds` are the upper bounds of a
    histogram's buckets in its own unit, `+Inf` left out; observations are whole numbers of 1/`per_unit` of that unit,
    so a histogram in seconds with `per_unit` 1,000,000 is given microseconds. `moves` says for people when the value
    changes. A family with `created` false has no `_created` series, as prometheus_client's own collectors have none.
    A counter with `total` false is exposed under its bare name, as programs that are not in Python have it.
    """

    name: str
    kind: Kind
    help: str
    moves: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    per_unit: int = 1
    created: bool = True
    total: bool = True

    @property
    def exposed(self) -> str:
        """The name under which it is found on `/metrics`."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER and self.total else self.name


class Scalar:
    """The value of a counter or a gauge. The hot path writes `value` itself."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """Observations counted by bucket; `counts` is per bucket and not cumulative, its last item is above all bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, in the unit of the bounds, `times` times; a value on a bound is in that bucket (`le`)."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Summary:
    """How many observations there were and their sum, without quantiles."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.count += 1
        self.sum += value


Cell = Scalar | Histogram | Summary
C = TypeVar("C", Scalar, Histogram, Summary)

Time = Callable[[], float]
"""Seconds since the Unix epoch."""

_SCALARS: Final = (Kind.COUNTER, Kind.GAUGE)


class Series(Generic[C]):
    """The cells of one family by the values of its labels, in the order in which they were first used."""

    def __init__(self, family: Family, make: Callable[[], C], now: Time) -> None:
        self.family = family
        self.version = 0
        """Grows when a cell comes or goes."""
        self._make: Callable[[], C] = make
        self._now = now
        self._cells: dict[tuple[str, ...], tuple[C, float]] = {}
        if not family.labels:
            self.cell()

    def cell(self, *values: str) -> C:
        """The cell with these label values, in the declared order of the labels; made at first use."""
        found = self._cells.get(values)
        if found is None:
            if len(values) != len(self.family.labels):
                raise ValueError(f"{self.family.name} has the labels {self.family.labels}, not {values}")
            found = self._cells[values] = (self._make(), self._now())
            self.version += 1
        return found[0]

    def share(self, cell: C, *values: str) -> None:
        """Expose a cell of another family here as well."""
        self._cells[values] = (cell, self._now())
        self.version += 1

    def exchange(self, values: tuple[str, ...], cell: C | None) -> C | None:
        """Put a cell in the place of the one with these label values, or take it out; returns what was there."""
        there, created = self._cells.get(values, (None, self._now()))
        if cell is not None:
            self._cells[values] = (cell, created)
        elif there is not None:
            del self._cells[values]
        self.version += 1
        return there

    def clear(self) -> None:
        """Forget all cells."""
        self._cells.clear()
        self.version += 1

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], C, float]]:
        """Label values, cell and time of creation of each."""
        for values, (cell, created) in self._cells.items():
            yield values, cell, created


AnySeries = Series[Scalar] | Series[Histogram] | Series[Summary]


def scalars(family: Family, now: Time) -> Series[Scalar]:
    """The series of a counter or gauge."""
    if family.kind not in _SCALARS:
        raise ValueError(f"{family.name} is a {family.kind}")
    return Series(family, Scalar, now)


def histograms(family: Family, now: Time) -> Series[Histogram]:
    """The series of a histogram."""
    if family.kind is not Kind.HISTOGRAM:
        raise ValueError(f"{family.name} is a {family.kind}")
    # Whole bounds where they are whole: comparing an int with an int is cheaper and exact.
    scaled = (bound * family.per_unit for bound in family.bounds)
    bounds = tuple(round(bound) if abs(bound - round(bound)) < 1e-9 else bound for bound in scaled)
    return Series(family, lambda: Histogram(bounds), now)


def summaries(family: Family, now: Time) -> Series[Summary]:
    """The series of a summary."""
    if family.kind is not Kind.SUMMARY:
        raise ValueError(f"{family.name} is a {family.kind}")
    return Series(family, Summary, now)
