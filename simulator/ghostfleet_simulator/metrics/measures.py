"""What the running parts of a server report, whatever an engine calls it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ghostfleet_simulator.metrics.families import Histogram, Scalar

FINISH_REASONS: Final = ("stop", "length", "abort", "error", "repetition")
"""vLLM's finish reasons in the order of its enumeration."""
QUEUE_LIMITS: Final = ("max_num_queued_reqs", "max_num_queued_tokens")
"""The limits that turn requests away, as vLLM names them."""


def _totals() -> Histogram:
    """How many and their sum, for what is not exposed by size."""
    return Histogram(())


def _by_reason() -> dict[str, Scalar]:
    return {reason: Scalar() for reason in FINISH_REASONS}


def _by_limit() -> dict[str, Scalar]:
    return {limit: Scalar() for limit in QUEUE_LIMITS}


@dataclass(frozen=True, slots=True)
class Measures:
    """The cells of one engine. A dialect makes them, because bucket bounds are part of how an engine reports.

    A cell that it does not make counts unseen. Histograms of times take whole microseconds of the engine's clock, the
    others whole tokens or counts.
    """

    running: Scalar = field(default_factory=Scalar)
    waiting: Scalar = field(default_factory=Scalar)
    waiting_for_capacity: Scalar = field(default_factory=Scalar)
    waiting_deferred: Scalar = field(default_factory=Scalar)
    kv_usage: Scalar = field(default_factory=Scalar)
    sleep_state: dict[str, Scalar] = field(default_factory=dict)
    """1 for the state the server is in: `awake`, `weights_offloaded`, `discard_all`; for a pause by `/sleep` none."""

    prefix_queries: Scalar = field(default_factory=Scalar)
    prefix_hits: Scalar = field(default_factory=Scalar)
    prefix_hits_on_device: Scalar = field(default_factory=Scalar)
    prefix_hits_on_host: Scalar = field(default_factory=Scalar)
    prefix_hits_on_disk: Scalar = field(default_factory=Scalar)
    prefix_hits_on_peer: Scalar = field(default_factory=Scalar)
    prefix_hits_elsewhere: Scalar = field(default_factory=Scalar)
    external_queries: Scalar = field(default_factory=Scalar)
    external_hits: Scalar = field(default_factory=Scalar)
    preemptions: Scalar = field(default_factory=Scalar)
    prompt_tokens: Scalar = field(default_factory=Scalar)
    prompt_tokens_computed: Scalar = field(default_factory=Scalar)
    prompt_tokens_hit: Scalar = field(default_factory=Scalar)
    prompt_tokens_loaded: Scalar = field(default_factory=Scalar)
    prompt_tokens_cached: Scalar = field(default_factory=Scalar)
    prompt_tokens_recomputed: Scalar | None = None
    """None where the engine's version does not count them."""
    generation_tokens: Scalar = field(default_factory=Scalar)
    finished: dict[str, Scalar] = field(default_factory=_by_reason)
    """Sequences that ended, by finish reason."""

    refused: dict[str, Scalar] = field(default_factory=_by_limit)
    """Requests that a queue limit turned away, by the name of the limit."""

    iteration_tokens: Histogram = field(default_factory=_totals)
    time_to_first_token: Histogram = field(default_factory=_totals)
    inter_token_latency: Histogram = field(default_factory=_totals)
    time_per_output_token: Histogram = field(default_factory=_totals)
    e2e_latency: Histogram = field(default_factory=_totals)
    queue_time: Histogram = field(default_factory=_totals)
    prefill_time: Histogram = field(default_factory=_totals)
    decode_time: Histogram = field(default_factory=_totals)
    inference_time: Histogram = field(default_factory=_totals)
    request_prompt_tokens: Histogram = field(default_factory=_totals)
    request_generation_tokens: Histogram = field(default_factory=_totals)
    request_prefill_computed_tokens: Histogram = field(default_factory=_totals)
    request_most_generation_tokens: Histogram = field(default_factory=_totals)
    request_n: Histogram = field(default_factory=_totals)
    request_max_tokens: Histogram = field(default_factory=_totals)
    request_preemptions: Histogram = field(default_factory=_totals)
