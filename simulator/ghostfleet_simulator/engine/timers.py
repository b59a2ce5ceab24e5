"""Which step timer a profile asks for."""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.config import Backend, ClockSettings, Profile
from ghostfleet_simulator.engine.roofline import RooflineTimer
from ghostfleet_simulator.engine.steps import StepFeatures, StepTimer
from ghostfleet_simulator.engine.steptime import StepTimeTimer
from ghostfleet_simulator.engine.table import TableTimer
from ghostfleet_simulator.problems import InvalidInput, Problem

_SMALLEST: Final = StepFeatures(decodes=1, decode_context=1)


def step_timer(profile: Profile) -> StepTimer:
    """The timer of a profile's steps; `ValueError` with the backend `Simple`, which paces by requests."""
    match profile.backend:
        case Backend.STEP_TIME if profile.step_time:
            return StepTimeTimer(profile.step_time)
        case Backend.ROOFLINE if profile.roofline:
            return RooflineTimer(profile.roofline)
        case Backend.TABLE if profile.table:
            return TableTimer(profile.table)
    raise ValueError(f"{profile.backend} has no steps")


def shortest_gap_us(profile: Profile) -> float:
    """The shortest time between two tokens of a sequence that a profile models, noise aside, in microseconds."""
    if profile.backend is Backend.SIMPLE:
        return profile.simple.inter_token_latency.ns / 1000
    return step_timer(profile).step_us(_SMALLEST)


def check_pace(clock: ClockSettings, profile: Profile) -> None:
    """Raises `InvalidInput` if the compressed clock leaves less than `clock.minStep` between two tokens."""
    compression, gap_us = float(clock.compression), shortest_gap_us(profile)
    least_us = clock.min_step.ns / 1000
    if compression > 1 and 0 < gap_us < least_us * compression:
        allowed = f"at most {gap_us / least_us:.3g}" if gap_us >= least_us else "not possible with this profile"
        message = (
            f"{clock.compression} leaves {gap_us / compression:.0f}us between two tokens of profile "
            f"{profile.backend.value}, less than clock.minStep={clock.min_step}: {allowed}"
        )
        raise InvalidInput([Problem("clock.compression", message)])
