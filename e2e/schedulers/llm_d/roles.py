"""Configurations of the picker that send a request to several servers, each for its part."""

from __future__ import annotations

from e2e.schedulers.llm_d.picker import Plugin

PREFILLER = "x-prefiller-host-port"
ENCODERS = "x-encoder-hosts-ports"
"""Headers of a request that name the servers of its other parts."""
_SCORED = ["prefix-cache-scorer", "max-score-picker"]
PROFILES = {
    "encode": ["encode-filter", "max-score-picker"],
    "prefill": ["prefill-filter", *_SCORED],
    "decode": ["decode-filter", *_SCORED],
}
"""By role; the server that decodes is the destination."""
BY_PREFIX: Plugin = {"type": "prefix-based-pd-decider", "parameters": {"nonCachedTokens": 16}}
"""Prompts of which 16 tokens or more are not cached are computed elsewhere."""
ALWAYS: Plugin = {"type": "always-disagg-pd-decider"}
"""All prompts are."""
IMAGES: Plugin = {"type": "always-disagg-multimodal-decider"}
"""Requests with images and the like go to an encoder first."""


def dividing(**deciders: Plugin) -> list[Plugin]:
    """Plugins that divide requests; for `prefill` and `encode` a plugin decides each."""
    names = {part: plugin if isinstance(plugin, str) else plugin["type"] for part, plugin in deciders.items()}
    cache = {"blockSizeTokens": 16, "autoTune": False}
    return [
        {"type": "approx-prefix-cache-producer", "parameters": cache},
        *("prefix-cache-scorer", "encode-filter", "prefill-filter", "decode-filter", "max-score-picker"),
        *deciders.values(),
        {"type": "disagg-profile-handler", "parameters": {"deciders": names}},
    ]


def profiles(*roles: str) -> dict[str, list[str]]:
    """Those of these roles."""
    return {role: PROFILES[role] for role in roles}
