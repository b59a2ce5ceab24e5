"""`spec.rollout`: how a new document comes to the pods that run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator

from ghostfleet_simulator.config import Settings, problem
from ghostfleet_simulator.config.base import Whole
from ghostfleet_simulator.units import Duration

MOST_STEPS: Final = 10

_RULES: Final[list[JsonValue]] = [
    {
        "rule": "self.strategy != 'Restart' || !has(self.steps) || self.steps.size() == 0",
        "fieldPath": ".steps",
        "message": "steps need the strategy HotReload",
    }
]


class Strategy(StrEnum):
    """How pods come to run a new document."""

    HOT_RELOAD = "HotReload"
    RESTART = "Restart"


class Pause(Settings):
    """A wait after a step."""

    duration: Duration | None = None
    """Time for which the whole wave must have run the revision. Without it the step waits for `promote`."""


class Step(Settings):
    """A wave of pods."""

    percent: Annotated[Whole, Field(ge=1, le=100)]
    """Share of the pods that run the new revision in this step: rounded up, but not all of several below 100."""

    pause: Pause | None = None
    """What is waited for when all pods of the wave run the revision; without it nothing."""


class Promotion(Settings):
    """A word of a person that a revision may go on."""

    revision: Annotated[int, Field(ge=1, le=2**63 - 1)]
    """The revision, as `status.profile.rollout` tells it; for any other one it means nothing."""

    step: Annotated[Whole | None, Field(ge=1, le=MOST_STEPS)] = None
    """Last step whose pause is over; without it all of them."""


class Rollout(Settings):
    """How a change of the profile or of another live field reaches pods that run."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": _RULES})

    strategy: Strategy = Strategy.HOT_RELOAD
    """`HotReload` pushes a new revision to the pods; `Restart` has the Deployment replace them instead."""

    steps: Annotated[tuple[Step, ...], Field(max_length=MOST_STEPS)] = ()
    """Waves that get a new revision before all pods do. If one fails, all go back to what they ran before."""

    ack_timeout: Duration = Duration.parse("30s")
    """Time within which a pod of a wave must be Ready and say that it runs the revision; else the wave fails."""

    max_error_percent: Annotated[Whole | None, Field(ge=0, le=100)] = None
    """Share of the wave's requests, from the 20th on, that may end in an error or an injected failure before the wave
    fails. Without it, errors are not looked at."""

    promote: Promotion | None = None
    """Ends the pauses of a revision."""

    @model_validator(mode="after")
    def _steps_are_pushed(self) -> Self:
        if self.steps and self.strategy is Strategy.RESTART:
            raise problem("steps", "steps need the strategy HotReload")
        return self
