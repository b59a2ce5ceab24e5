"""Decides for one request after the other whether it fails, and how.

llm-d-inference-sim lets a rate decide whether a request fails and a second draw decide how. Here one draw decides both.
It is taken whether or not a failure matches the request, so which request of a run fails depends on the seed and on its
place in the run, and narrowing a failure spares requests and changes no other. Every kind of endpoint has draws of its
own: scrapes and probes do not change what happens to generation requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ghostfleet_simulator.config import GENERATING, Endpoint, Failure, Failures
from ghostfleet_simulator.faults.forced import Lookup, forced


@dataclass(frozen=True, slots=True)
class _Rule:
    failure: Failure
    share: float
    models: frozenset[str]
    headers: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, failure: Failure) -> _Rule:
        match = failure.match
        headers = tuple((header.name.lower(), header.value) for header in match.headers)
        return cls(failure, float(failure.probability), frozenset(match.models), headers)

    def matches(self, model: str, header: Lookup) -> bool:
        if self.models and model not in self.models:
            return False
        for name, value in self.headers:
            found = header(name)
            if not found or (value is not None and value not in found):
                return False
        return True


class FaultInjector:
    """The failures of one server that befall single requests, and its seeded draws."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draws: dict[str, Random] = {}
        self._rules: dict[Endpoint, tuple[_Rule, ...]] = {}
        self._headers = False
        self.armed = False
        """Whether any request can fail; while it is false nothing needs to be decided."""

    def use(self, failures: Failures, *, headers: bool = False) -> None:
        """Take over what is in force; the next decision follows it, and the draws go on where they are.

        With `headers`, requests may ask to fail.
        """
        rules = [_Rule.of(failure) for failure in failures if failure.at_requests]
        self._rules = {
            endpoint: found
            for endpoint in Endpoint
            if (found := tuple(rule for rule in rules if endpoint in rule.failure.match.reach))
        }
        self._headers = headers
        self.armed = bool(rules) or headers

    def decide(self, endpoint: Endpoint, model: str, header: Lookup) -> Failure | None:
        """What befalls a request; raises `ForcedInvalid` where its headers ask for what there is not.

        Draws once where a failure can hit the endpoint at all. `model` is what the request asks for, empty where the
        endpoint has no model.
        """
        rules = self._rules.get(endpoint, ())
        drawn = self._draw(endpoint) if rules else 1.0
        if self._headers and (asked := forced(endpoint, header)):
            return asked
        below = 0.0
        for rule in rules:
            if not rule.matches(model, header):
                continue
            # Rounded so that shares that add up to 1 do so here too: they have nine decimals at most.
            below = round(below + rule.share, 12)
            if drawn < below:
                return rule.failure
        return None

    def _draw(self, endpoint: Endpoint) -> float:
        purpose = "faults" if endpoint in GENERATING else f"faults/{endpoint.value}"
        if purpose not in self._draws:
            self._draws[purpose] = Random(f"{self._seed}/{purpose}")
        return self._draws[purpose].random()
