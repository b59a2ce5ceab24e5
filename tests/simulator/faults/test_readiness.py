"""When a flapping server is ready."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.config import Failure, FailureType
from ghostfleet_simulator.faults.readiness import Flapping
from ghostfleet_simulator.units import Duration, Probability


def _unready(period_ms: int, percent: int) -> Failure:
    return Failure(
        type=FailureType.UNREADY,
        period=Duration.parse(period_ms),
        duty=Probability.parse(f"{percent}%"),
    )


@given(st.integers(100, 100_000), st.integers(0, 100), st.integers(0, 10**6))
def test_a_server_is_away_for_its_share_of_each_period(period_ms: int, percent: int, since: int) -> None:
    """At its end, as seen at a hundred moments of each of two periods."""
    flapping = Flapping()
    flapping.use((_unready(period_ms, percent),), float(since))
    for moment in range(200):
        at = float(since + Fraction(period_ms * (2 * moment + 1), 200_000))
        assert flapping.unready(at) is (moment % 100 >= 100 - percent)


def test_a_change_elsewhere_does_not_begin_the_period_anew() -> None:
    flapping, failure = Flapping(), _unready(1000, 50)
    flapping.use((failure,), 0.0)
    flapping.use((Failure(type=FailureType.HANG), failure), 0.7)
    assert flapping.unready(0.8)
    assert not flapping.unready(1.2)


def test_it_ends_when_it_is_not_in_force() -> None:
    flapping = Flapping()
    flapping.use((Failure(type=FailureType.UNREADY),), 5.0)
    assert flapping.unready(5.0)
    assert flapping.unready(5e9)
    flapping.use((), 6.0)
    assert not flapping.unready(6.0)
