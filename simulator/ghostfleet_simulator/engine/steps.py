"""What a step consists of, and the models that say how long it lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepFeatures:
    """The work of one step in exact numbers from the scheduler."""

    prefill_tokens: int = 0
    """Prompt tokens computed in the step; hits of the prefix cache are not among them."""
    prefill_work: float = 0.0
    """Sum over the step's parts of prompts of `t * (c + t / 2)`: t tokens of the part, c tokens before it."""
    prefills: int = 0
    """Parts of prompts in the step."""
    decodes: int = 0
    """Sequences that decode."""
    decode_context: int = 0
    """Tokens of all decoding sequences together, prompt and answer so far."""

    adapter_share: float = 0.0
    """Share by which LoRA adapters make the computing of the tokens longer."""

    @property
    def tokens(self) -> int:
        """Rows of the step's matrix products."""
        return self.prefill_tokens + self.decodes

    @property
    def sequences(self) -> int:
        """Sequences in the step."""
        return self.prefills + self.decodes


class StepTimer(Protocol):
    """A model of how long steps last."""

    def step_us(self, work: StepFeatures) -> float:
        """Length of a step that holds `work`, in microseconds; at least 0, and not rounded."""
