"""What the running parts of a server report, whatever an engine calls it."""

from __future__ import annotations

from dataclasses import dataclass

from ghostfleet_simulator.metrics.families import Histogram, Scalar


@dataclass(frozen=True, slots=True)
class Measures:
    """The cells of one engine. A dialect makes them, because bucket bounds are part of how an engine reports.

    Histograms of times take whole microseconds of the engine's clock, the others whole tokens or counts.
    """

    running: Scalar
    waiting: Scalar
    waiting_for_capacity: Scalar
    waiting_deferred: Scalar
    kv_usage: Scalar
    sleep_state: dict[str, Scalar]
    """1 for the state the server is in: `awake`, `weights_offloaded`, `discard_all`; for a pause by `/sleep` none."""

    prefix_queries: Scalar
    prefix_hits: Scalar
    prefix_hits_on_device: Scalar
    prefix_hits_on_host: Scalar
    prefix_hits_on_disk: Scalar
    external_queries: Scalar
    external_hits: Scalar
    preemptions: Scalar
    prompt_tokens: Scalar
    prompt_tokens_computed: Scalar
    prompt_tokens_hit: Scalar
    prompt_tokens_loaded: Scalar
    prompt_tokens_cached: Scalar
    prompt_tokens_recomputed: Scalar | None
    """None where the engine's version does not count them."""
    generation_tokens: Scalar
    finished: dict[str, Scalar]
    """Sequences that ended, by finish reason."""

    refused: dict[str, Scalar]
    """Requests that a queue limit turned away, by the name of the limit."""

    iteration_tokens: Histogram
    time_to_first_token: Histogram
    inter_token_latency: Histogram
    time_per_output_token: Histogram
    e2e_latency: Histogram
    queue_time: Histogram
    prefill_time: Histogram
    decode_time: Histogram
    inference_time: Histogram
    request_prompt_tokens: Histogram
    request_generation_tokens: Histogram
    request_prefill_computed_tokens: Histogram
    request_most_generation_tokens: Histogram
    request_n: Histogram
    request_max_tokens: Histogram
    request_preemptions: Histogram
