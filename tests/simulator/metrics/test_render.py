"""The exposition against prometheus_client, which vLLM uses: same lines, only whole numbers are written as whole."""

from __future__ import annotations

import math

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from ghostfleet_simulator.metrics.families import (
    AnySeries,
    Family,
    Histogram,
    Kind,
    Series,
    Summary,
    histograms,
    scalars,
    summaries,
)
from ghostfleet_simulator.metrics.render import Exposition, bound_text, number

_CLASSES = {
    Kind.COUNTER: prometheus_client.Counter,
    Kind.GAUGE: prometheus_client.Gauge,
    Kind.HISTOGRAM: prometheus_client.Histogram,
    Kind.SUMMARY: prometheus_client.Summary,
}


def _now() -> float:
    return 1_790_470_234.25


def _exposition(*series: AnySeries, with_created: bool = True) -> str:
    return Exposition(series, with_created=with_created, refresh=lambda: None).render().decode()


def _lines(text: str) -> list[tuple[str, float | None]]:
    """Every line with its value as a number; the times of creation, which are never equal, as 0."""
    found: list[tuple[str, float | None]] = []
    for line in text.splitlines():
        if line.startswith("#"):
            found.append((line, None))
        else:
            name, _, value = line.rpartition(" ")
            found.append((name, 0.0 if "_created" in name.partition("{")[0] else float(value)))
    return found


def _series(kind: Kind, labels: tuple[str, ...], bounds: tuple[float, ...] = ()) -> AnySeries:
    family = Family("vllm:thing", kind, 'Help with \\ and "quotes"\nin two lines.', "Never.", labels, bounds)
    if kind is Kind.HISTOGRAM:
        return histograms(family, _now)
    return summaries(family, _now) if kind is Kind.SUMMARY else scalars(family, _now)


label_values = st.text(
    st.characters(exclude_categories=["Cs", "Zl", "Zp", "Cc"]) | st.sampled_from('\\"\n'), max_size=8
)
amounts = st.integers(0, 2**40) | st.floats(0, 1e12)


@given(
    kind=st.sampled_from(list(Kind)),
    observed=st.dictionaries(st.tuples(label_values, label_values), st.lists(amounts, max_size=4), max_size=4),
    bounds=st.lists(st.floats(1e-3, 1e8), min_size=1, max_size=6, unique=True).map(lambda b: tuple(sorted(b))),
)
def test_every_line_is_prometheus_clients(
    kind: Kind, observed: dict[tuple[str, str], list[float]], bounds: tuple[float, ...]
) -> None:
    series = _series(kind, ("second", "first"), bounds if kind is Kind.HISTOGRAM else ())
    registry = prometheus_client.CollectorRegistry()
    options = {"buckets": bounds} if kind is Kind.HISTOGRAM else {}
    theirs = _CLASSES[kind](series.family.name, series.family.help, series.family.labels, registry=registry, **options)
    for values, numbers in observed.items():
        cell, their_cell = series.cell(*values), theirs.labels(*values)
        for amount in numbers:
            if isinstance(cell, Histogram | Summary):
                cell.observe(amount)
                their_cell.observe(amount)
            else:
                cell.value += amount
                their_cell.inc(amount)
    mine = _exposition(series)
    assert _lines(mine) == _lines(prometheus_client.generate_latest(registry).decode())
    list(text_string_to_metric_families(mine))


def test_a_family_without_labels_has_its_series_from_the_start() -> None:
    series = _series(Kind.HISTOGRAM, (), (0.5, 1.0))
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Histogram("vllm:thing", series.family.help, buckets=(0.5, 1.0), registry=registry)
    assert _lines(_exposition(series)) == _lines(prometheus_client.generate_latest(registry).decode())


@given(st.floats(0, 1e12, exclude_min=True) | st.integers(1, 10**12))
def test_bounds_are_written_as_prometheus_client_writes_them(bound: float) -> None:
    assert bound_text(bound) == floatToGoString(bound)


@given(st.floats())
def test_a_number_reads_back_as_itself(value: float) -> None:
    text = number(value)
    assert float(text) == value or (math.isnan(value) and text == "NaN")


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), (0.0, "0"), (0.1, "0.1"), (1e300, "1e+300"), (math.inf, "+Inf"), (-math.inf, "-Inf")],
)
def test_whole_numbers_have_no_fraction(value: float, text: str) -> None:
    assert number(value) == text


def test_a_histogram_in_parts_of_its_unit_is_exposed_in_the_unit() -> None:
    family = Family("t_seconds", Kind.HISTOGRAM, "T.", "Never.", (), (0.01, 0.3), per_unit=1_000_000)
    series = histograms(family, _now)
    assert series.cell().bounds == (10_000, 300_000)
    for us in (10_000, 10_001, 300_000, 300_001):
        series.cell().observe(us)
    text = _exposition(series, with_created=False)
    assert 't_seconds_bucket{le="0.01"} 1\n' in text
    assert 't_seconds_bucket{le="0.3"} 3\n' in text
    assert 't_seconds_bucket{le="+Inf"} 4\nt_seconds_count 4\nt_seconds_sum 0.620002\n' in text


def test_a_scrape_sees_what_moved_and_what_is_new_since_the_last_one() -> None:
    series = scalars(Family("things", Kind.COUNTER, "T.", "Never.", ("kind",)), _now)
    exposition = Exposition([series], with_created=False, refresh=lambda: None)
    assert b"{" not in exposition.render()
    series.cell("a").value += 1
    assert b'things_total{kind="a"} 1\n' in exposition.render()
    series.cell("a").value += 1
    series.cell("b")
    assert b'things_total{kind="a"} 2\nthings_total{kind="b"} 0\n' in exposition.render()
    series.clear()
    assert b"{" not in exposition.render()


def test_created_series_can_be_left_out() -> None:
    series = _series(Kind.COUNTER, ())
    assert "vllm:thing_created 1790470234.25\n" in _exposition(series)
    assert "_created" not in _exposition(series, with_created=False)


def test_labels_must_be_those_that_were_declared() -> None:
    series = scalars(Family("things", Kind.GAUGE, "T.", "Never.", ("kind",)), _now)
    with pytest.raises(ValueError, match="things has the labels"):
        series.cell()


@pytest.mark.parametrize("make", [scalars, histograms, summaries])
def test_a_cell_is_of_the_declared_kind(make: object) -> None:
    wrong = Kind.SUMMARY if make is not summaries else Kind.GAUGE
    with pytest.raises(ValueError, match=f"things is a {wrong}"):
        make(Family("things", wrong, "T.", "Never."), _now)  # type: ignore[operator]  # one of three functions


def test_series_remember_cells_by_their_labels() -> None:
    series: Series[Summary] = summaries(Family("s", Kind.SUMMARY, "S.", "Never.", ("a",)), _now)
    assert series.cell("x") is series.cell("x")
    assert series.cell("x") is not series.cell("y")
    assert [values for values, _, _ in series] == [("x",), ("y",)]
