"""What a server costs in time."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import model_validator

from ghostfleet_simulator.config.base import Flag, Settings, problem
from ghostfleet_simulator.units import Duration, Factor


class LatencyCalculator(StrEnum):
    """How the time to the first token is made; llm-d-inference-sim's `latency-calculator`."""

    AUTO = "Auto"
    CONSTANT = "Constant"
    PER_TOKEN = "PerToken"  # noqa: S105 - a mode, not a password


_SPREAD: Final = "at most 30 % of the mean"


class SimpleTiming(Settings):
    """Latencies per request, under llm-d-inference-sim's names, exact to the microsecond.

    A time with a deviation is drawn from a normal distribution cut off at 70 % below and above its mean.
    """

    latency_calculator: Annotated[LatencyCalculator, Flag("latency-calculator")] = LatencyCalculator.AUTO
    """What makes the time to the first token: `Constant` takes `timeToFirstToken`, `PerToken` the prefill times, `Auto`
    the former where it is set and else the latter."""

    time_to_first_token: Annotated[Duration, Flag("time-to-first-token")] = Duration(0)
    """Time from admission to the first token."""

    time_to_first_token_std_dev: Annotated[Duration, Flag("time-to-first-token-std-dev")] = Duration(0)
    """Standard deviation of `timeToFirstToken`, at most 30 % of it."""

    inter_token_latency: Annotated[Duration, Flag("inter-token-latency")] = Duration(0)
    """Time between two tokens of one sequence."""

    inter_token_latency_std_dev: Annotated[Duration, Flag("inter-token-latency-std-dev")] = Duration(0)
    """Standard deviation of `interTokenLatency`, at most 30 % of it."""

    prefill_overhead: Annotated[Duration, Flag("prefill-overhead")] = Duration(0)
    """Constant part of a prefill, without regard to its length."""

    prefill_time_per_token: Annotated[Duration, Flag("prefill-time-per-token")] = Duration(0)
    """Time that each prompt token adds to a prefill."""

    prefill_time_std_dev: Annotated[Duration, Flag("prefill-time-std-dev")] = Duration(0)
    """Standard deviation of the prefill time."""

    time_factor_under_load: Annotated[Factor, Flag("time-factor-under-load")] = Factor.parse(1)
    """Factor on the times when `maxNumSeqs` sequences run; 1 with one sequence and linear in between. At least 1."""

    tick: Duration = Duration(1_000_000)
    """Grid onto which due times are rounded up, so that one wake-up serves all tokens that fall due together."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        for mean, deviation, path in (
            (self.time_to_first_token, self.time_to_first_token_std_dev, "timeToFirstTokenStdDev"),
            (self.inter_token_latency, self.inter_token_latency_std_dev, "interTokenLatencyStdDev"),
        ):
            if deviation.ns * 10 > mean.ns * 3:
                raise problem(path, f"{deviation} is too large for a mean of {mean}: {_SPREAD}")
        if float(self.time_factor_under_load) < 1:
            raise problem("timeFactorUnderLoad", f"{self.time_factor_under_load} is below 1")
        if not 10_000 <= self.tick.ns <= 1_000_000_000:
            raise problem("tick", f"{self.tick} is not between 10us and 1s")
        return self


class Backend(StrEnum):
    """Which model of step times a profile uses."""

    SIMPLE = "Simple"


class Profile(Settings):
    """What a server costs in time; every field takes effect at once on a running server."""

    backend: Backend = Backend.SIMPLE
    """The model of step times in use; the block of the same name holds its numbers."""

    simple: SimpleTiming = SimpleTiming()
    """Times per request and token."""
