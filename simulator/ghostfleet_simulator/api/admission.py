"""Requests that are turned away because too many wait, with status 503 so that a load balancer tries elsewhere.

Source: vLLM 0.33 v1/engine/async_llm.py, `check_admission`.
"""

from __future__ import annotations

from ghostfleet_simulator.api.errors import ApiError, unavailable
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Work

_BUSY = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)
_BACKLOG = "The engine has reached its prefill token backlog limit. Please try again later or on a different instance."

_QUEUE_FULL = "Failed to enqueue request, waiting requests queue is full"
"""llm-d-inference-sim's words."""


def check_admission(server: SimulatedServer, n: int) -> None:
    """Raise the 503 of a request for `n` sequences if the queue limits do not let it in. Counts it, too."""
    if (error := _refusal(server, n, 0, 0)) is not None:
        raise error


def refused_prompt(server: SimulatedServer, work: Work) -> ApiError | None:
    """The error of a request whose prompts are not all let in, each counting those before it.

    vLLM looks a second time when it queues a prompt. A stream has begun by then.
    """
    if not is_limited(server):
        return None
    sequences = tokens = 0
    for prompt in work.prompts:
        n = prompt.sampling.n
        if (error := _refusal(server, n, sequences, tokens)) is not None:
            return error
        sequences += n
        tokens += n * len(prompt.token_ids)
    return None


def is_limited(server: SimulatedServer) -> bool:
    """Whether there is a limit to the queue."""
    limits = server.config.scheduling
    limited = (limits.max_num_queued_reqs, limits.max_num_queued_tokens, limits.max_waiting_requests)
    return any(limit is not None for limit in limited)


def _refusal(server: SimulatedServer, n: int, sequences: int, tokens: int) -> ApiError | None:
    """`sequences` and `tokens` are those that the request itself has queued so far."""
    limits = server.config.scheduling
    most = limits.max_num_queued_reqs
    if most is not None and server.running + server.waiting + sequences + n > most:
        server.metrics.on_turned_away("max_num_queued_reqs")
        return unavailable(_BUSY)
    most = limits.max_num_queued_tokens
    if most is not None and server.queued_tokens + tokens >= most:
        server.metrics.on_turned_away("max_num_queued_tokens")
        return unavailable(_BACKLOG)
    most = limits.max_waiting_requests
    if most is not None and server.running + server.waiting + sequences + n > server.config.limits.max_num_seqs + most:
        return ApiError(429, "RateLimitError", _QUEUE_FULL)
    return None
