"""What is the same for all servers of an operator."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator adds to every plan: the default image, the server's admin tokens, and its own pull settings."""

    simulator_image: str
    tokens: tuple[str, ...] = field(repr=False)
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
