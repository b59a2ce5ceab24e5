"""Series that show what they are told to show, while all others, and all that a server does, stay true.

A fake series has a cell of its own in the place of the real one, which goes on counting unseen. So nothing that reads
the real one (the load factor of a profile, a queue limit) is misled, and when the fake is taken away the truth is back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Final

from ghostfleet_simulator.config import Course, Dialect, Selector, ServerConfig, parse_selector, parse_value
from ghostfleet_simulator.metrics.dialects import naming_of
from ghostfleet_simulator.metrics.families import AnySeries, Histogram, Kind, Scalar, Series, Time
from ghostfleet_simulator.metrics.lora import LoraRequests
from ghostfleet_simulator.metrics.naming import Naming
from ghostfleet_simulator.metrics.vllm import VLLM
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest

_FIELD: Final = "fakeMetrics"
_WHOLE: Final = re.compile(
    "vllm:num_requests|sglang:num_.*reqs|trtllm_num_.*requests|nv_.*(request_metrics|request_count)"
)
"""Gauges that begin like this count requests; a course is rounded toward zero there."""


_NOISE: Final = 1e-9
"""What a whole number can fall short of itself where it is the outcome of a sine."""


@dataclass(slots=True)
class _Fake:
    text: str
    began: float
    values: tuple[str, ...]
    series: AnySeries
    real: Scalar | Histogram | None
    """What it stands in for; None where there was no such series."""
    course: Course | None = None
    cell: Scalar | None = None

    def refresh(self, now: float) -> None:
        if self.course is not None and self.cell is not None:
            value = self.course.at(now - self.began)
            self.cell.value = int(value + _NOISE) if _WHOLE.match(self.series.family.name) else value


class FakeMetrics:
    """The fake series of one server."""

    def __init__(
        self,
        series: Iterable[AnySeries],
        own_labels: Mapping[str, tuple[str, ...]],
        now: Time,
        elsewhere: Mapping[str, frozenset[str]] = MappingProxyType({}),
    ) -> None:
        """`own_labels` are those that tell the server and its engines, and the values that they have.

        A selector may leave them out, and then means the series of all of them. With a value that is `elsewhere` it
        means nothing here.
        """
        self._by_name = {one.family.exposed: one for one in series}
        self._own_labels = own_labels
        self._elsewhere = elsewhere
        self._now = now
        self._fakes: dict[Selector, list[_Fake]] = {}

    def use(self, settings: Mapping[str, str]) -> None:
        """Fake these series and no others; one that is faked already goes on where it is. Raises `InvalidInput`."""
        wanted = {parse_selector(key): (key, text) for key, text in settings.items()}
        found = {selector: self._found(key, selector, text) for selector, (key, text) in wanted.items()}
        _check_once(wanted, found)
        for selector, fakes in list(self._fakes.items()):
            if selector not in wanted or wanted[selector][1] != fakes[0].text:
                for fake in fakes:
                    _put(fake.series, fake.values, fake.real)
                del self._fakes[selector]
        for selector, (series, several) in found.items():
            if several and selector not in self._fakes:
                self._fakes[selector] = [self._begun(series, values, wanted[selector][1]) for values in several]
        self.refresh()

    def fakes(self, series: AnySeries) -> bool:
        """Whether one of this family is faked."""
        return any(fakes[0].series is series for fakes in self._fakes.values())

    def refresh(self) -> None:
        """Bring series that change by themselves up to the present."""
        now = self._now()
        for fakes in self._fakes.values():
            for fake in fakes:
                fake.refresh(now)

    def _found(self, key: str, selector: Selector, text: str) -> tuple[AnySeries, list[tuple[str, ...]]]:
        series = self._by_name.get(selector.name)
        if series is None:
            guess = nearest(selector.name, self._by_name)
            raise _problem(key, "there is no such metric" + (f"; did you mean {guess}?" if guess else ""))
        family, given = series.family, dict(selector.labels)
        own = {name: values for name, values in self._own_labels.items() if name in family.labels}
        needed = [name for name in family.labels if name not in own]
        for name, values in own.items():
            asked = given.pop(name, values[0])
            if asked not in values and asked not in self._elsewhere.get(name, ()):
                raise _problem(key, f"{name} is not {asked!r} here but {' or '.join(map(repr, values))}")
        if sorted(given) != sorted(needed):
            labels = ",".join(f'{name}="..."' for name in needed)
            raise _problem(key, f"its labels are {{{labels}}}" if needed else "it has no labels of its own")
        value = parse_value(text)
        if (family.kind is Kind.HISTOGRAM) != isinstance(value, tuple):
            need = (
                "the counts of its buckets, such as [1, 2]" if family.kind is Kind.HISTOGRAM else "a number or a course"
            )
            raise _problem(key, f"is a {family.kind}: give {need}")
        if isinstance(value, tuple) and len(value) > len(family.bounds) + 1:
            raise _problem(key, f"has {len(family.bounds) + 1} buckets, not {len(value)}")
        given = dict(selector.labels)
        if any(given.get(name) in others for name, others in self._elsewhere.items()):
            return series, []
        choices = ((given[name],) if name in given else own[name] for name in family.labels)
        return series, list(product(*choices))

    def _begun(self, series: AnySeries, values: tuple[str, ...], text: str) -> _Fake:
        value = parse_value(text)
        cell: Scalar | Histogram
        if isinstance(value, tuple):
            cell = _histogram(series, value)
        else:
            cell = Scalar()
            if not isinstance(value, Course):
                cell.value = value
        real = _put(series, values, cell)
        fake = _Fake(text, self._now(), values, series, real)
        if isinstance(value, Course) and isinstance(cell, Scalar):
            fake.course, fake.cell = value, cell
        return fake


def _check_once(
    wanted: Mapping[Selector, tuple[str, str]], found: Mapping[Selector, tuple[AnySeries, list[tuple[str, ...]]]]
) -> None:
    taken: dict[tuple[str, tuple[str, ...]], str] = {}
    for selector, (_, several) in found.items():
        key = wanted[selector][0]
        for values in several:
            if (other := taken.setdefault((selector.name, values), key)) != key:
                raise _problem(key, f"{other} means the same series")


def check_fake_metrics(config: ServerConfig, settings: Mapping[str, str]) -> None:
    """Raise `InvalidInput` if a server that was started with `config` has not the series that it is to fake."""
    if settings:
        lora = LoraRequests(lambda: 0.0).series if config.engine.dialect is Dialect.VLLM else None
        fakes_of(naming_of(config, config.ranks, lambda: 0.0), lora, lambda: 0.0).use(settings)


def fakes_of(naming: VLLM | Naming, lora: Series[Scalar] | None, now: Time) -> FakeMetrics:
    """Those of a server, none yet; `lora` is there whether the server has adapters or not, if its dialect has it."""
    return FakeMetrics([*naming.series, *([lora] if lora else ())], naming.own_labels, now, naming.elsewhere)


def _put(series: AnySeries, values: tuple[str, ...], cell: Scalar | Histogram | None) -> Scalar | Histogram | None:
    """Exchange a cell; the types go together because a fake is made for the series that it is put into."""
    exchanged: Series[Scalar] | Series[Histogram] = series  # type: ignore[assignment]  # no dialect has summaries
    return exchanged.exchange(values, cell)  # type: ignore[arg-type]  # see above


def _histogram(series: AnySeries, counts: tuple[int, ...]) -> Histogram:
    """As if each count were of observations at the upper bound of its bucket, one above the last for those beyond."""
    family = series.family
    cell = Histogram(tuple(bound * family.per_unit for bound in family.bounds))
    cell.counts[: len(counts)] = counts
    ends = [*cell.bounds, (cell.bounds[-1] if cell.bounds else 0) + family.per_unit]
    cell.sum = sum(count * end for count, end in zip(counts, ends, strict=False))
    return cell


def _problem(key: str, message: str) -> InvalidInput:
    return InvalidInput([Problem(f"{_FIELD}[{key}]", message)])
