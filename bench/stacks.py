"""Sampled stacks as microseconds per token. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

Frame = tuple[str, str, int]
"""Function, file, line."""

TOP: Final = 40
LEAST: Final = 0.005
"""Share of the CPU time below which a row is left out."""

WAKE_UP: Final = "BaseSelectorEventLoop._read_from_self"
"""What asyncio does for each signal that arrives, and so for each sample; it is left out."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """Stacks seen at even distances of CPU time, innermost frame first, and how often each was seen."""

    counts: Sequence[tuple[int, Sequence[Frame]]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `bench.sampler` wrote."""
        stacks = json.loads(path.read_text())["stacks"]
        counts = [(int(n), [(str(f), str(file), int(line)) for f, file, line in stack]) for n, stack in stacks]
        return cls([(n, stack) for n, stack in counts if stack and all(frame[0] != WAKE_UP for frame in stack)])

    @property
    def total(self) -> int:
        """How many samples there are."""
        return sum(count for count, _ in self.counts)

    def own(self) -> dict[str, float]:
        """Shares of the CPU time by the function that was at work."""
        return self._shares(lambda stack: [function(stack[0])])

    def inclusive(self) -> dict[str, float]:
        """Shares of the CPU time by every function on the stack, once each."""
        return self._shares(lambda stack: {function(frame) for frame in stack})

    def lines(self) -> dict[str, float]:
        """Shares of the CPU time by the line that was at work."""
        return self._shares(lambda stack: [f"{function(stack[0])}:{stack[0][2]}"])

    def _shares(self, keys: Callable[[Sequence[Frame]], Iterable[str]]) -> dict[str, float]:
        found: Counter[str] = Counter()
        for count, stack in self.counts:
            for key in keys(stack):
                found[key] += count
        return {key: count / self.total for key, count in found.items()}


def function(frame: Frame) -> str:
    """A function with the last two parts of its file's path."""
    name, file, _ = frame
    return f"{name} ({'/'.join(Path(file).parts[-2:])})"


def native_shares(report: str) -> tuple[dict[str, float], dict[str, float]]:
    """Shares by object and by C function, from `perf report`'s lines `samples; object; symbol; ...`."""
    objects: Counter[str] = Counter()
    symbols: Counter[str] = Counter()
    for line in report.splitlines():
        parts = [part.strip() for part in line.split(";")]
        if len(parts) >= 3 and parts[0].isdigit():
            objects[parts[1]] += int(parts[0])
            symbols[f"{parts[2]} ({parts[1]})"] += int(parts[0])
    total = sum(objects.values())
    return {key: n / total for key, n in objects.items()}, {key: n / total for key, n in symbols.items()}


def table(title: str, shares: Mapping[str, float], cost: float) -> str:
    """The largest shares as microseconds of `cost` and per cent."""
    largest = sorted(shares.items(), key=lambda item: -item[1])[:TOP]
    return "\n".join([title, *(f"{cost * s:8.2f}  {s:6.1%}  {what}" for what, s in largest if s >= LEAST)])
