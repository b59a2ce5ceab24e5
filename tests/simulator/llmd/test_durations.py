"""Durations are read as Go reads them, and written as it prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.llmd.durations import nanoseconds, spelt


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("0.1us", 100),
        ("4us", 4_000),
        ("4µs", 4_000),
        ("0.1ms", 100_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("2000ms", 2_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1h2m3.5s", 3_723_500_000_000),
        ("+1s", 1_000_000_000),
        ("-5ms", -5_000_000),
        ("0.7ns", 0),
    ],
)
def test_what_go_takes(text: str, ns: int) -> None:
    assert nanoseconds(text) == ns


@pytest.mark.parametrize("text", ["", "5", "1.5", "ms", "1 s", "1d", "1ms2", "--1s", "1e3s", "9999999h"])
def test_what_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        nanoseconds(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (100, "100ns"),
        (1_500, "1.5µs"),
        (250_000_000, "250ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (3_723_500_000_000, "1h2m3.5s"),
        (-1_000_000, "-1ms"),
    ],
)
def test_as_go_prints_it(ns: int, text: str) -> None:
    assert spelt(ns) == text


@given(st.integers(-(10**17), 10**17))
def test_what_is_printed_can_be_read(ns: int) -> None:
    assert nanoseconds(spelt(ns)) == ns
