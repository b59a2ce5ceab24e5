"""How fast time passes for a server."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import model_validator

from ghostfleet_simulator.config.base import Flag, Settings, problem
from ghostfleet_simulator.units import Duration, Factor


class ClockSettings(Settings):
    """How fast time passes for a server. Its metrics tell simulated time."""

    compression: Annotated[Factor, Flag("clock-compression")] = Factor.parse(1)
    """Factor by which simulated time passes faster than real time, 1 to 1000: every modelled wait is divided by it."""

    min_step: Duration = Duration(500_000)
    """Shortest real time between two tokens of a sequence; with a `compression` above 1, a profile that is faster is
    refused, because the machine would not keep up with it."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if not 1 <= float(self.compression) <= 1000:
            raise problem("compression", f"{self.compression} is not from 1 to 1000")
        return self
