"""Which step timer a profile asks for."""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.config import Backend, Profile
from ghostfleet_simulator.engine.roofline import RooflineTimer
from ghostfleet_simulator.engine.steps import StepFeatures, StepTimer
from ghostfleet_simulator.engine.steptime import StepTimeTimer
from ghostfleet_simulator.engine.table import TableTimer

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
