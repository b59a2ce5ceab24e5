"""Durations, probabilities and factors: what is accepted, what each is written as, what a refusal says."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ghostfleet_simulator.units import (
    DURATION_PATTERN,
    FACTOR_PATTERN,
    PROBABILITY_PATTERN,
    Duration,
    Factor,
    Probability,
)

_YEAR_NS = 366 * 24 * 3600 * 10**9
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "": 10**6}


@given(st.integers(0, _YEAR_NS))
def test_a_duration_survives_being_written_and_read(ns: int) -> None:
    written = str(Duration(ns))
    assert Duration.parse(written) == Duration(ns)
    assert re.fullmatch(DURATION_PATTERN, written)


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(_UNITS)))
def test_a_duration_is_exactly_what_was_written(whole: int, thousandths: int, unit: str) -> None:
    exact = (whole + Fraction(thousandths, 1000)) * _UNITS[unit]
    text = f"{whole}.{thousandths:03}{unit}"
    if exact.denominator == 1 and exact <= _YEAR_NS:
        assert Duration.parse(text).ns == exact
    else:
        with pytest.raises(ValueError, match=r"finer than a nanosecond|longer than a year"):
            Duration.parse(text)


@pytest.mark.parametrize(("raw", "ns"), [(20, 20_000_000), ("20", 20_000_000), ("12.5ms", 12_500_000), ("0", 0)])
def test_a_bare_number_is_milliseconds(raw: int | str, ns: int) -> None:
    assert Duration.parse(raw).ns == ns


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (1.5, "1.5 is not a duration"),
        (True, "True is not a duration"),
        (None, "None is not a duration"),
        ("", "no unit means ms"),
        ("20 ms", "no unit means ms"),
        (" 12.5ms", "no unit means ms"),
        ("12.5ms\n", "no unit means ms"),
        ("20sec", "no unit means ms"),
        ("1e3", "no unit means ms"),
        ("٣ms", "no unit means ms"),
        (-1, "cannot be negative: '-1'"),
        ("-20ms", "cannot be negative: '-20ms'"),
        ("0.5ns", "finer than a nanosecond"),
        ("9000h", "longer than a year"),
        ("x" * 5000, r"xxx\.\.\. is not a duration"),
    ],
)
def test_a_wrong_duration_is_answered_with_what_is_allowed(raw: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Duration.parse(raw)
    assert len(str(caught.value)) < 250


@given(st.integers(0, 10**9))
def test_a_probability_survives_being_written_and_read(billionths: int) -> None:
    raw = f"{billionths // 10**9}.{billionths % 10**9:09}"
    once = Probability.parse(raw)
    assert float(once) == pytest.approx(billionths / 10**9, abs=1e-12)
    assert Probability.parse(str(once)) == once
    assert re.fullmatch(PROBABILITY_PATTERN, str(once))


@given(st.integers(0, 10**9))
def test_percent_and_share_are_two_spellings_of_one_value(billionths: int) -> None:
    percent = f"{billionths // 10**7}.{billionths % 10**7:07}%"
    share = f"{billionths // 10**9}.{billionths % 10**9:09}"
    assert Probability.parse(percent) == Probability.parse(share)
    assert hash(Probability.parse(percent)) == hash(Probability.parse(share))
    assert str(Probability.parse(percent)) == str(Probability.parse(share))


@pytest.mark.parametrize("raw", ["1.1", "101%", "-0.1", "1e-3", ".5", "5 %", " 5%", "5%\n", 0.05, 1, True, None, ""])
def test_a_wrong_probability_is_refused_whatever_it_is(raw: object) -> None:
    with pytest.raises(ValueError, match="is not a probability: write a string from '0' to '1'"):
        Probability.parse(raw)


@given(st.integers(0, 10**6 - 1), st.integers(0, 10**9 - 1))
def test_a_factor_survives_being_written_and_read(whole: int, billionths: int) -> None:
    once = Factor.parse(f"{whole}.{billionths:09}")
    assert Factor.parse(str(once)) == once
    assert re.fullmatch(FACTOR_PATTERN, str(once))
    assert float(once) == pytest.approx(whole + billionths / 10**9)


@pytest.mark.parametrize("raw", ["-1", -1, "two", " 2", "2\n", 1.5, False, None, "1e3"])
def test_a_wrong_factor_is_refused_whatever_it_is(raw: object) -> None:
    with pytest.raises(ValueError, match="is not a factor"):
        Factor.parse(raw)


class _Model(BaseModel):
    duration: Duration = Duration(0)
    probability: Probability = Probability.parse("0")
    factor: Factor = Factor.parse(1)


def test_quantities_are_written_as_strings_in_json() -> None:
    model = _Model.model_validate({"duration": 20, "probability": "5%", "factor": 2})
    assert model.model_dump_json() == '{"duration":"20ms","probability":"0.05","factor":"2"}'


def test_a_refusal_reaches_pydantic_in_the_same_words() -> None:
    with pytest.raises(ValidationError) as caught:
        _Model.model_validate({"duration": "soon"})
    (error,) = caught.value.errors()
    assert error["loc"] == ("duration",)
    assert error["msg"].startswith("'soon' is not a duration: write a number and one of the units")


def test_the_schema_takes_integers_and_strings_where_the_parser_does() -> None:
    properties = _Model.model_json_schema()["properties"]
    assert properties["duration"]["x-kubernetes-int-or-string"] is True
    assert properties["factor"]["x-kubernetes-int-or-string"] is True
    assert properties["probability"]["type"] == "string"


def test_a_duration_is_never_equal_to_another_kind_of_quantity() -> None:
    assert Duration.parse(1) != Factor.parse(1)
    assert Duration.parse("1s") == Duration.parse(1000)
