"""The `Table` backend: the length of a step between measured ones."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from ghostfleet_simulator.config import Extrapolation, TableTiming
from ghostfleet_simulator.engine.steps import StepFeatures


class Grid:
    """Values at every crossing of two axes; bilinear between them."""

    def __init__(self, points: Iterable[tuple[int, int, float]], *, clamp: bool) -> None:
        values = {(x, y): value for x, y, value in points}
        self._xs, self._ys = sorted({x for x, _ in values}), sorted({y for _, y in values})
        self._rows = [[values[x, y] for y in self._ys] for x in self._xs]
        self._clamp = clamp

    @property
    def least(self) -> float:
        """The value where both axes begin."""
        return self._rows[0][0]

    def at(self, x: float, y: float) -> float:
        """The value at a point; beyond the axes it stays as it is at their ends or goes on as before them."""
        i, u = self._place(self._xs, x)
        j, v = self._place(self._ys, y)
        row, next_row = self._rows[i], self._rows[min(i + 1, len(self._xs) - 1)]
        k = min(j + 1, len(self._ys) - 1)
        return (1 - u) * ((1 - v) * row[j] + v * row[k]) + u * ((1 - v) * next_row[j] + v * next_row[k])

    def _place(self, axis: list[int], at: float) -> tuple[int, float]:
        """The interval of the axis that is used for `at`, and the place of `at` in it, 0 to 1 if it is inside."""
        if len(axis) == 1:
            return 0, 0.0
        if self._clamp:
            at = min(max(at, axis[0]), axis[-1])
        index = min(max(bisect_right(axis, at) - 1, 0), len(axis) - 2)
        return index, (at - axis[index]) / (axis[index + 1] - axis[index])


class TableTimer:
    """Prompts and decodes have a grid each.

    The parts of prompts in a step count as one of their total length, with as many tokens before it as make the same
    attention work. Beside prompts, decoding adds what it takes longer than in the smallest step measured, so that the
    reading of the weights is paid once.
    """

    def __init__(self, timing: TableTiming) -> None:
        clamp = timing.extrapolate is Extrapolation.CLAMP
        self._prefill = Grid(((p.tokens, p.context, p.time.ns / 1000) for p in timing.prefill), clamp=clamp)
        self._decode = Grid(((p.sequences, p.context, p.time.ns / 1000) for p in timing.decode), clamp=clamp)

    def step_us(self, work: StepFeatures) -> float:
        """Length of a step in microseconds."""
        decodes, tokens = work.decodes, work.prefill_tokens
        decode = self._decode.at(decodes, work.decode_context / decodes) if decodes else 0.0
        longer = 1 + work.adapter_share
        if not tokens:
            return max(0.0, decode) * longer
        prefill = self._prefill.at(tokens, max(0.0, work.prefill_work / tokens - tokens / 2))
        return (max(0.0, prefill) + max(0.0, decode - self._decode.least)) * longer
