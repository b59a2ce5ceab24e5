"""What a server costs in time: the live block `profile`, which is also the whole spec of a `LatencyProfile`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from ghostfleet_simulator.config.base import Settings, Whole, problem
from ghostfleet_simulator.config.lora import LoraTiming
from ghostfleet_simulator.config.roofline import RooflineTiming
from ghostfleet_simulator.config.timing import SimpleTiming, StepTimeTiming, TableTiming
from ghostfleet_simulator.units import Duration, Factor, Probability


class Backend(StrEnum):
    """Which model of times a profile uses."""

    SIMPLE = "Simple"
    STEP_TIME = "StepTime"
    ROOFLINE = "Roofline"
    TABLE = "Table"


class Evidence(StrEnum):
    """Where the numbers of a profile come from."""

    MEASURED = "Measured"
    TRANSFERRED = "Transferred"
    ESTIMATE = "Estimate"


class ApiTiming(Settings):
    """What happens to a request outside the engine; not with the backend `Simple`."""

    overhead: Duration = Duration(0)
    """Time a request takes through the API, both ways together: the engine sees it that much later."""

    per_prompt_token: Duration = Duration(0)
    """Time that each prompt token adds to `overhead`."""

    async_steps: Annotated[Whole, Field(ge=0, le=1)] = 1
    """Steps that are put together ahead of the one that runs: 1 is vLLM's asynchronous scheduling, with which a request
    that arrives in a step is not in the next one either."""


class StepSpread(Settings):
    """Noise of the length of a step."""

    sigma: Factor = Factor.parse(0)
    """Sigma of a lognormal factor with mean 1, drawn once per step for its whole batch; at most 1. Measured: 0.016."""


class Stall(Settings):
    """Steps that now and then take much longer."""

    probability: Probability = Probability.parse("0")
    """Share of the steps that stall. Measured: 0.5 to 1 %."""

    mean_fraction: Factor = Factor.parse(0)
    """Mean of the exponential extra time, as a share of the step; at most 100. Measured: 0.1 to 0.3."""


class RequestSpread(Settings):
    """Noise of the time a request takes through the API."""

    mean: Duration = Duration(0)
    """Mean of a gamma-distributed time that is added to the API's `overhead`."""

    cv: Factor = Factor.parse("0.5")
    """Its standard deviation as a share of the mean, more than 0 and at most 1."""


class Noise(Settings):
    """Randomness of times, off by default and drawn from the server's seed; not with the backend `Simple`.

    Most of what spreads the times of a real server is load, which is simulated anyway.
    """

    step: StepSpread = StepSpread()
    """Noise of the length of a step."""

    stall: Stall = Stall()
    """Steps that now and then take much longer."""

    request: RequestSpread = RequestSpread()
    """Noise of the time a request takes through the API."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if float(self.step.sigma) > 1:
            raise problem("step.sigma", f"{self.step.sigma} is more than 1")
        if float(self.stall.mean_fraction) > 100:
            raise problem("stall.meanFraction", f"{self.stall.mean_fraction} is more than 100")
        if not 0 < float(self.request.cv) <= 1:
            raise problem("request.cv", f"{self.request.cv} is not more than 0 and at most 1")
        return self


class Profile(Settings):
    """What a server costs in time; every field takes effect at once on a running server."""

    backend: Backend = Backend.SIMPLE
    """The model of times in use; the block of the same name holds its numbers. `Simple` gives every request the same
    times; with the others it is a step of the engine that takes time, for all sequences in it together."""

    evidence: Evidence = Evidence.ESTIMATE
    """Where the numbers come from: measured on this model and GPU, transferred from another one, or estimated."""

    simple: SimpleTiming = SimpleTiming()
    """Times per request and token."""

    step_time: StepTimeTiming | None = None
    """Coefficients of the length of a step; required by the backend `StepTime`."""

    roofline: RooflineTiming | None = None
    """Model and GPU from which the length of a step is computed; required by the backend `Roofline`."""

    table: TableTiming | None = None
    """Measured lengths of steps; required by the backend `Table`."""

    api: ApiTiming = ApiTiming()
    """What happens to a request outside the engine."""

    noise: Noise = Noise()
    """Randomness of times."""

    lora: LoraTiming = LoraTiming()
    """What LoRA adapters cost in time."""

    @model_validator(mode="after")
    def _numbers_of_the_backend(self) -> Self:
        for backend, path, numbers in (
            (Backend.STEP_TIME, "stepTime", self.step_time),
            (Backend.ROOFLINE, "roofline", self.roofline),
            (Backend.TABLE, "table", self.table),
        ):
            if self.backend is backend and numbers is None:
                raise problem(path, f"required with the backend {backend.value}")
        return self
