"""What the dialects of other engines than vLLM are made of: cells under their names, and values worked out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.metrics.families import (
    AnySeries,
    Family,
    Histogram,
    Scalar,
    Series,
    Time,
    histograms,
    scalars,
)
from ghostfleet_simulator.metrics.measures import Measures

_WINDOW_S: Final = 1.0
"""What a rate is taken over, at least."""


class Naming:
    """The series of a server's engines under the names of one dialect, in the order in which they are exposed.

    A subclass makes the measures of one engine in `_engine`. What nobody reports is worked out of them when it is read;
    where engines share a cell, it has the sum over them.
    """

    labels: tuple[str, ...]
    """Labels of an engine; a family has all of them or those that it names."""
    rank_label: str = ""
    """Label that a family with all of them has besides, on a server that is not just rank 0."""

    def __init__(self, config: ServerConfig, ranks: Sequence[int], now: Time) -> None:
        """`ranks` are the data-parallel ranks of the engines."""
        self.config = config
        self.now = now
        self._of_scalars: dict[Family, Series[Scalar]] = {}
        self._of_histograms: dict[Family, Series[Histogram]] = {}
        self._derived: dict[Scalar, list[Callable[[], float]]] = {}
        self._updates: list[Callable[[], None]] = []
        self.series: list[AnySeries] = []
        self.measures: list[Measures] = []
        """What each engine reports to."""
        of_ranks = tuple(ranks)
        self._own = dict(zip(self.labels, self._values(), strict=True))
        self._ranked = bool(self.rank_label) and of_ranks != (0,)
        self.own_labels: dict[str, tuple[str, ...]] = {label: (value,) for label, value in self._own.items()}
        """Labels that tell these series from those of other servers, each with the values that it has here."""
        self.elsewhere: dict[str, frozenset[str]] = {}
        """Values of labels that are no series here, because other servers have those engines."""
        if self._ranked:
            self.own_labels[self.rank_label] = tuple(map(str, of_ranks))
            self.elsewhere[self.rank_label] = config.ranks_elsewhere
        for self._rank in of_ranks:  # that of the engine whose cells are being made
            self.measures.append(self._engine())

    def refresh(self) -> None:
        """Bring what is worked out of other values up to the present."""
        for update in self._updates:
            update()
        for cell, values in self._derived.items():
            cell.value = sum(value() for value in values)

    @property
    def blocks(self) -> int:
        """Blocks of one engine's KV cache that hold tokens."""
        return self.config.kv_cache.blocks - 1

    @property
    def tokens(self) -> int:
        """Tokens that they hold."""
        return self.blocks * self.config.kv_cache.block_size

    def _values(self) -> tuple[str, ...]:
        """The values of `labels`."""
        raise NotImplementedError

    def _engine(self) -> Measures:
        """The measures of one engine."""
        raise NotImplementedError

    def _scalar(self, family: Family, *values: str) -> Scalar:
        """A cell of the engine that is being made; `values` are those of labels of the family's own."""
        series = self._of_scalars.get(family)
        if series is None:
            series = self._of_scalars[family] = scalars(self._declared(family), self.now)
            self.series.append(series)
        return series.cell(*self._labelled(family, values))

    def _histogram(self, family: Family, *values: str) -> Histogram:
        series = self._of_histograms.get(family)
        if series is None:
            series = self._of_histograms[family] = histograms(self._declared(family), self.now)
            self.series.append(series)
        return series.cell(*self._labelled(family, values))

    def _by_rank(self, family: Family) -> bool:
        return self._ranked and family.labels[: len(self.labels)] == self.labels

    def _declared(self, family: Family) -> Family:
        return replace(family, labels=(*family.labels, self.rank_label)) if self._by_rank(family) else family

    def _labelled(self, family: Family, values: tuple[str, ...]) -> tuple[str, ...]:
        own = (value for label, value in self._own.items() if label in family.labels)
        return (*own, *values, str(self._rank)) if self._by_rank(family) else (*own, *values)

    # --- what nobody reports ---------------------------------------------------------------------

    def _constant(self, cell: Scalar, value: float) -> None:
        cell.value = value

    def _worked_out(self, cell: Scalar, value: Callable[[], float]) -> None:
        """Have `cell` show what `value` returns whenever it is read."""
        self._derived.setdefault(cell, []).append(value)

    def _same(self, cell: Scalar, other: Scalar) -> None:
        self._worked_out(cell, lambda: other.value)

    def _count(self, cell: Scalar, histogram: Histogram) -> None:
        self._worked_out(cell, lambda: sum(histogram.counts))

    def _sum(self, cell: Scalar, histogram: Histogram) -> None:
        self._worked_out(cell, lambda: histogram.sum)

    def _rate(self, cell: Scalar, counted: Scalar) -> None:
        """Have `cell` show by how much `counted` grows in a second."""
        since, before = self.now(), 0.0

        def update() -> None:
            nonlocal since, before
            elapsed = self.now() - since
            if elapsed >= _WINDOW_S:
                cell.value = (counted.value - before) / elapsed
                since, before = since + elapsed, counted.value

        self._updates.append(update)

    def _ratio(self, cell: Scalar, part: Scalar, whole: Scalar) -> None:
        """Have `cell` show the share that `part` had in the last growth of `whole`, 0 to 1."""
        parts = wholes = 0.0

        def update() -> None:
            nonlocal parts, wholes
            if whole.value > wholes:
                cell.value = (part.value - parts) / (whole.value - wholes)
                parts, wholes = part.value, whole.value

        self._updates.append(update)
