"""What an import tells: per object a line for everything that is not simply the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What became of something."""

    TRANSLATED = "translated"
    APPROXIMATED = "approximated"
    NOT_NEEDED = "not needed"
    DROPPED = "dropped"
    CHECK = "to check"


LOSSES = frozenset({Verdict.APPROXIMATED, Verdict.DROPPED, Verdict.CHECK})
"""Verdicts after which somebody should look."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One line of a report."""

    place: str
    """The object or the input that it is about."""
    verdict: Verdict
    text: str


@dataclass(slots=True)
class Report:
    """The remarks of one import."""

    remarks: list[Remark] = field(default_factory=list)

    def add(self, place: str, verdict: Verdict, text: str) -> None:
        """Remark something, once."""
        remark = Remark(place, verdict, text)
        if remark not in self.remarks:
            self.remarks.append(remark)

    @property
    def lossy(self) -> bool:
        """Whether anything is not the same as it was."""
        return any(remark.verdict in LOSSES for remark in self.remarks)
