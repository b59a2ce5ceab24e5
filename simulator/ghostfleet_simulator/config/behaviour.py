"""What a server answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from ghostfleet_simulator.config.base import Flag, Settings


class AnswerMode(StrEnum):
    """What a server says."""

    ECHO = "Echo"
    RANDOM = "Random"


class Answers(Settings):
    """What the server answers."""

    mode: Annotated[AnswerMode, Flag("mode")] = AnswerMode.RANDOM
    """`Echo` repeats the prompt or the last message; `Random` makes sentences of random length."""
