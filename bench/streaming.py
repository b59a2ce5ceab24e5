"""The streaming bench: the same loads on our server and another, turn by turn."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from bench.client import BenchError, Load, measure
from bench.report import Kind, Run, Scenario
from bench.scraping import scrape
from bench.servers import ROOT, Pace, Running

PACE: Final = Pace(ttft_ms=100, itl_ms=20)
FLAT_OUT: Final = Pace(ttft_ms=0, itl_ms=0)
UNPACED_STREAMS: Final = 64
WHOLE_TOKENS: Final = 16
SCRAPED_STREAMS: Final = 256


class Target(Protocol):
    """A server that can be measured."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def can(self, pace: Pace) -> bool:
        """Whether it can be had at that pace."""

    def running(self, pace: Pace) -> AbstractContextManager[Running]:
        """A context in which it runs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: kinds of load, stream counts of the paced kind, rounds, tokens a request, times (s)."""

    kinds: Sequence[Kind] = tuple(Kind)
    streams: Sequence[int] = (64, 256, 512)
    rounds: int = 3
    max_tokens: int = 500
    window: float | None = None
    warm_up: float = 2.0

    def loads(self) -> list[tuple[Kind, Pace, Load]]:
        """The loads in the order in which they are put on."""
        loads: list[tuple[Kind, Pace, Load]] = []
        flat_out = self.window or 8.0
        if Kind.PACED in self.kinds:
            loads += [(Kind.PACED, PACE, self._paced(streams)) for streams in self.streams]
        if Kind.UNPACED in self.kinds:
            load = Load(UNPACED_STREAMS, self.max_tokens, warm_up=self.warm_up, window=flat_out)
            loads.append((Kind.UNPACED, FLAT_OUT, load))
        if Kind.REQUESTS in self.kinds:
            loads.append((Kind.REQUESTS, FLAT_OUT, Load(UNPACED_STREAMS, 1, warm_up=self.warm_up, window=flat_out)))
        if Kind.WHOLE in self.kinds:
            load = Load(UNPACED_STREAMS, WHOLE_TOKENS, warm_up=self.warm_up, window=flat_out, stream=False)
            loads.append((Kind.WHOLE, FLAT_OUT, load))
        if Kind.SCRAPES in self.kinds:
            loads.append((Kind.SCRAPES, PACE, self._paced(SCRAPED_STREAMS)))
        return loads

    def _paced(self, streams: int) -> Load:
        return Load.paced(
            streams,
            max_tokens=self.max_tokens,
            ttft_ms=PACE.ttft_ms,
            itl_ms=PACE.itl_ms,
            warm_up=self.warm_up,
            window=self.window,
        )

    def seconds(self, targets: int) -> float:
        """About how long it takes."""
        return (
            sum(
                (1.5 + load.warm_up + load.window) * (2 if kind is Kind.SCRAPES else targets)
                for kind, _, load in self.loads()
            )
            * self.rounds
        )


def run(binary: Path, plan: Plan, targets: Sequence[Target], tell: Callable[[str], None]) -> list[Scenario]:
    """Put every load on every server, A B A B ..., each time on a fresh process where the bench starts it.

    Raises:
        BenchError: a server cannot be started or answers with anything but complete streams.
    """
    scenarios = []
    for kind, pace, load in plan.loads():
        able = [target for target in targets if target.can(pace)]
        for target in targets:
            if target not in able:
                tell(f"{kind}: {target.name} is left out: its command has no {{itl}}, so its pace cannot be set")
        rounds: list[dict[str, Run]] = []
        for number in range(plan.rounds if able else 0):
            rounds.append({})
            for name, target, scraped in turns(kind, able):
                try:
                    with target.running(pace) as running:
                        seconds = load.warm_up + load.window
                        during = partial(scrape, running.endpoint, seconds) if scraped else None
                        rounds[-1][name] = Run(measure(binary, running.endpoint, load, during), running.start_s)
                except BenchError as error:
                    raise BenchError(f"{name}, {kind}, {load.streams} streams: {error}") from error
                seen = rounds[-1][name].measurement
                cost = (
                    f"{seen.cpu_us_per_request:.0f} us of CPU per request"
                    if kind.by_request
                    else f"{seen.cpu_us_per_token:.2f} us of CPU per token"
                )
                tell(f"{kind}, {load.streams} streams, round {number + 1} of {plan.rounds}, {name}: {cost}")
        if rounds:
            scenarios.append(Scenario(kind, load, rounds))
    return scenarios


def turns(kind: Kind, targets: Sequence[Target]) -> Iterator[tuple[str, Target, bool]]:
    """Who is measured in a round: the name in the tables, the server, and whether it is scraped meanwhile.

    What scraping costs is asked of the first one only.
    """
    if kind is Kind.SCRAPES:
        for scraped in (False, True):
            yield targets[0].name + (", scraped" if scraped else ""), targets[0], scraped
    else:
        for target in targets:
            yield target.name, target, False


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
        "load_average": round(os.getloadavg()[0], 2),
    }
