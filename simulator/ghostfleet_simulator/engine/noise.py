"""Randomness of step times and of the way through the API, one seeded generator for each.

Lognormal steps, one draw for the whole batch, and exponential stalls: the shape of step times measured on vLLM, which
have a robust sigma of 1.6 % and a heavy tail. Draws per token would average out over an answer.
"""

from __future__ import annotations

from random import Random

from ghostfleet_simulator.config import ApiTiming, Noise


class StepNoise:
    """Spreads the lengths of steps."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"{seed}/step noise")
        self._sigma = self._probability = self._fraction = 0.0

    def use(self, noise: Noise) -> None:
        """Take over the numbers of a profile."""
        self._sigma = float(noise.step.sigma)
        self._probability = float(noise.stall.probability)
        self._fraction = float(noise.stall.mean_fraction)

    def apply(self, step_us: float) -> float:
        """The length of a step that should take `step_us`."""
        result, rng, sigma = step_us, self._rng, self._sigma
        if sigma:
            result *= rng.lognormvariate(-sigma * sigma / 2, sigma)
        if self._probability and rng.random() < self._probability and self._fraction:
            result += step_us * rng.expovariate(1 / self._fraction)
        return result


class ApiDelay:
    """Time between the arrival of a request and its entry into the engine."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"{seed}/request noise")
        self._overhead_us = self._per_token_us = self._mean_us = 0.0
        self._shape = 1.0

    def use(self, api: ApiTiming, noise: Noise) -> None:
        """Take over the numbers of a profile."""
        self._overhead_us, self._per_token_us = api.overhead.ns / 1000, api.per_prompt_token.ns / 1000
        self._mean_us = noise.request.mean.ns / 1000
        self._shape = float(noise.request.cv) ** -2

    def sample_us(self, prompt_tokens: int) -> int:
        """The delay of one request in whole microseconds."""
        result = self._overhead_us + self._per_token_us * prompt_tokens
        if self._mean_us:
            result += self._rng.gammavariate(self._shape, self._mean_us / self._shape)
        return round(result)
