"""The text exposition of Prometheus, as prometheus_client writes it, but cheap enough for 20 scrapes a second.

What does not change is text from the start; a cell that has not moved since the last scrape is not even formatted
again. One thing differs from prometheus_client on purpose: whole numbers are written as `3` and not as `3.0`, because
scrapers in the field read counts with integer parsers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final

from ghostfleet_simulator.metrics.families import AnySeries, Cell, Family, Histogram, Kind, Scalar, Summary

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"
"""What vLLM 0.33 answers on GET /metrics, whatever the request accepts."""


def number(value: float) -> str:
    """A sample value: whole numbers without a fraction, others in the shortest notation that reads back the same."""
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def bound_text(bound: float) -> str:
    """An upper bound as prometheus_client (utils.floatToGoString) writes it in `le`: `0.5`, `1.0`, `1e+06`."""
    text = repr(float(bound))
    dot = text.find(".")
    if bound > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _labels(names: Iterable[str], values: Iterable[str]) -> str:
    pairs = sorted(zip(names, values, strict=True))
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}" if pairs else ""


def _head(name: str, family: Family, kind: str) -> str:
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


class _ScalarText:
    def __init__(self, family: Family, values: tuple[str, ...], cell: Scalar) -> None:
        self._cell = cell
        self._prefix = f"{family.exposed}{_labels(family.labels, values)} "
        self._seen: float | None = None
        self._text = ""

    def text(self) -> str:
        value = self._cell.value
        if value != self._seen:
            self._seen = value
            self._text = f"{self._prefix}{number(value)}\n"
        return self._text


class _HistogramText:
    def __init__(self, family: Family, values: tuple[str, ...], cell: Histogram) -> None:
        self._cell = cell
        self._per_unit = family.per_unit
        name, bounds = family.name, [*map(bound_text, family.bounds), "+Inf"]
        lines = [f"{name}_bucket{_labels((*family.labels, 'le'), (*values, bound))}" for bound in bounds]
        labels = _labels(family.labels, values)
        lines += [f"{name}_count{labels}", f"{name}_sum{labels}"]
        self._template = "".join(line.replace("%", "%%") + " %s\n" for line in lines)
        self._counts: list[int] = []
        self._sum: float = -1
        self._text = ""

    def text(self) -> str:
        cell = self._cell
        if cell.counts != self._counts or cell.sum != self._sum:
            self._counts, self._sum = cell.counts.copy(), cell.sum
            buckets = [*accumulate(self._counts)]
            total = self._sum / self._per_unit if self._per_unit != 1 else self._sum
            self._text = self._template % (*buckets, buckets[-1], number(total))
        return self._text


class _SummaryText:
    def __init__(self, family: Family, values: tuple[str, ...], cell: Summary) -> None:
        self._cell = cell
        labels = _labels(family.labels, values)
        self._count, self._sum = f"{family.name}_count{labels} ", f"{family.name}_sum{labels} "

    def text(self) -> str:
        return f"{self._count}{self._cell.count}\n{self._sum}{number(self._cell.sum)}\n"


_CellText = _ScalarText | _HistogramText | _SummaryText


def _cell_text(family: Family, values: tuple[str, ...], cell: Cell) -> _CellText:
    if isinstance(cell, Scalar):
        return _ScalarText(family, values, cell)
    if isinstance(cell, Histogram):
        return _HistogramText(family, values, cell)
    return _SummaryText(family, values, cell)


class _FamilyText:
    """The lines of one family; `_created` series come behind the others, as gauges with a head of their own."""

    def __init__(self, series: AnySeries, with_created: bool) -> None:
        self._series = series
        self._with_created = with_created and series.family.created and series.family.kind is not Kind.GAUGE
        self._version = -1
        self._cells: list[_CellText] = []
        self._tail = ""
        family = series.family
        self._head = _head(family.exposed, family, family.kind)

    def add_to(self, parts: list[str]) -> None:
        if self._series.version != self._version:
            self._rebuild()
        parts.append(self._head)
        parts += [cell.text() for cell in self._cells]
        if self._tail:
            parts.append(self._tail)

    def _rebuild(self) -> None:
        family = self._series.family
        self._version = self._series.version
        self._cells = []
        name = f"{family.name}_created"
        tail = [_head(name, family, "gauge")]
        for values, cell, created in self._series:
            self._cells.append(_cell_text(family, values, cell))
            tail.append(f"{name}{_labels(family.labels, values)} {number(created)}\n")
        self._tail = "".join(tail) if self._with_created and self._cells else ""


class Exposition:
    """The text of a set of families, in their order."""

    def __init__(self, series: Iterable[AnySeries], *, with_created: bool, refresh: Callable[[], None]) -> None:
        self._with_created = with_created
        self._families = [_FamilyText(one, with_created) for one in series]
        self._refresh = refresh

    def add(self, series: AnySeries) -> None:
        """Expose a family that came into being later."""
        self._families.append(_FamilyText(series, self._with_created))

    def render(self) -> bytes:
        """The exposition; `refresh` is called first, for cells that are read rather than written as things happen."""
        self._refresh()
        parts: list[str] = []
        for family in self._families:
            family.add_to(parts)
        return "".join(parts).encode()
