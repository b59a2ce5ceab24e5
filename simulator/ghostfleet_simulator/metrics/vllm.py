"""How vLLM 0.33 names what it measures (v1/metrics/loggers.py, buckets.py): families, labels, buckets, help.

Every family that vLLM creates at start is there from the start, also those that stay at 0 because the part that would
move them is not simulated, so a dashboard or a scheduler finds what it would find on a real server. Families that vLLM
has only with a feature switched on (LoRA, a KV connector, speculative decoding, ...) are absent, as they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.metrics.cache_config import CACHE_CONFIG, cache_config
from ghostfleet_simulator.metrics.families import (
    AnySeries,
    Family,
    Histogram,
    Kind,
    Scalar,
    Series,
    Time,
    histograms,
    scalars,
)
from ghostfleet_simulator.metrics.measures import FINISH_REASONS, QUEUE_LIMITS, Measures
from ghostfleet_simulator.versions import Conduct

_ENGINE: Final = ("model_name", "engine")
_US: Final = 1_000_000

_LATENCY: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TTFT: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
_ITL: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_ITERATION: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def token_bounds(max_model_len: int) -> tuple[float, ...]:
    """1, 2, 5, 10, ... up to `max_model_len` (vLLM's build_1_2_5_buckets)."""
    bounds = [m * 10**e for e in range(len(str(max_model_len))) for m in (1, 2, 5)]
    return tuple(bound for bound in bounds if bound <= max_model_len)


def _gauge(name: str, text: str, moves: str, *labels: str) -> Family:
    return Family(f"vllm:{name}", Kind.GAUGE, text, moves, (*_ENGINE, *labels))


def _counter(name: str, text: str, moves: str, *labels: str) -> Family:
    return Family(f"vllm:{name}", Kind.COUNTER, text, moves, (*_ENGINE, *labels))


def _times(name: str, text: str, moves: str, bounds: tuple[float, ...]) -> Family:
    return Family(f"vllm:{name}_seconds", Kind.HISTOGRAM, text, moves, _ENGINE, bounds, per_unit=_US)


def _counts(name: str, text: str, moves: str, bounds: tuple[float, ...] = ()) -> Family:
    """Without bounds they are the 1-2-5 series up to the model's length."""
    return Family(f"vllm:{name}", Kind.HISTOGRAM, text, moves, _ENGINE, bounds)


_STEP = "With every step of the engine."
_FIRST = "When a sequence gives its first token."
_END = "When a sequence ends, unless its client went away."
_ADMITTED = "When a sequence is admitted and the prefix cache is on."
_IDLE = "Stays at 0: "

RUNNING = _gauge("num_requests_running", "Number of requests in model execution batches.", _STEP)
WAITING = _gauge("num_requests_waiting", "Number of requests waiting to be processed.", _STEP)
WAITING_BY_REASON = _gauge(
    "num_requests_waiting_by_reason",
    "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = "
    "deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals "
    "vllm:num_requests_waiting.",
    _STEP,
    "reason",
)
SLEEP_STATE = _gauge(
    "engine_sleep_state",
    "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 "
    "means sleep level 1; discard_all = 1 means sleep level 2.",
    "With `/sleep`, `/wake_up` and `/release_kv_cache_memory`; `awake` is 1 until then.",
    "sleep_state",
)
KV_USAGE = _gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", f"{_STEP} A share, 0 to 1.")

PREFIX_QUERIES = _counter(
    "prefix_cache_queries",
    "Prefix cache queries, in terms of number of queried tokens.",
    f"{_ADMITTED} All its tokens; readmissions after a preemption do not count.",
)
PREFIX_HITS = _counter(
    "prefix_cache_hits",
    "Prefix cache hits, in terms of number of cached tokens.",
    f"{_ADMITTED} Those of the queried tokens that were cached.",
)
EXTERNAL_QUERIES = _counter(
    "external_prefix_cache_queries",
    "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried "
    "tokens.",
    f"{_ADMITTED} With `kvCache.tiers` or `kvTransfer`: those of the queried tokens that were not on the GPU.",
)
EXTERNAL_HITS = _counter(
    "external_prefix_cache_hits",
    "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.",
    f"{_ADMITTED} With `kvCache.tiers` or `kvTransfer`: those of them that a tier had or another server sends.",
)
MM_QUERIES = _counter(
    "mm_cache_queries",
    "Multi-modal cache queries, in terms of number of queried items.",
    f"{_IDLE}the model takes text only.",
)
MM_HITS = _counter(
    "mm_cache_hits",
    "Multi-modal cache hits, in terms of number of cached items.",
    f"{_IDLE}the model takes text only.",
)
PREEMPTIONS = _counter(
    "num_preemptions",
    "Cumulative number of preemption from the engine.",
    "With the step that preempts (vLLM reports it with the next token of the preempted sequence).",
)
PROMPT_TOKENS = _counter(
    "prompt_tokens", "Number of prefill tokens processed.", f"{_FIRST} The whole prompt, cached tokens included."
)
PROMPT_TOKENS_BY_SOURCE = _counter(
    "prompt_tokens_by_source",
    "Number of prompt tokens by source.",
    f"{_FIRST} `local_cache_hit` are those that its first admission found on the GPU, `external_kv_transfer` those "
    "that came from a tier of `kvCache.tiers`, `local_compute` the others.",
    "source",
)
PROMPT_TOKENS_CACHED = _counter(
    "prompt_tokens_cached",
    "Number of cached prompt tokens (local + external).",
    _FIRST,
)
PROMPT_TOKENS_RECOMPUTED = _counter(
    "prompt_tokens_recomputed",
    "Number of cached tokens recomputed for forward pass.",
    f"Only from vLLM 0.16 to 0.19. {_FIRST} 1 for a prompt of which all but the last token was cached; "
    "`local_cache_hit` counts that token too.",
)
PROMPT_TOKENS_CACHED_BY_SOURCE = _counter(
    "prompt_tokens_cached_by_source",
    "Number of cached prompt tokens by the tier that held them.",
    f"{_ADMITTED} `device` is the GPU, `host` and `disk` are tiers of `kvCache.tiers`.",
    "source",
)
GENERATION_TOKENS = _counter("generation_tokens", "Number of generation tokens processed.", "With every token.")
ADMISSION_REJECTIONS = Family(
    "vllm:admission_rejections",
    Kind.COUNTER,
    "Number of admission attempts rejected by a queue limit, by reason.",
    "When a request is answered with 503 because of `maxNumQueuedReqs` or `maxNumQueuedTokens`.",
    ("model_name", "reason"),
)
REQUEST_SUCCESS = _counter("request_success", "Count of successfully processed requests.", _END, "finished_reason")

REQUEST_PROMPT_TOKENS = _counts("request_prompt_tokens", "Number of prefill tokens processed.", _END)
REQUEST_GENERATION_TOKENS = _counts("request_generation_tokens", "Number of generation tokens processed.", _END)
ITERATION_TOKENS = _counts(
    "iteration_tokens_total",
    "Histogram of number of tokens per engine_step.",
    "With every step that gives a token: prompts that were finished in it, without what was cached, and tokens.",
    _ITERATION,
)
REQUEST_MAX_NUM_GENERATION_TOKENS = _counts(
    "request_max_num_generation_tokens",
    "Histogram of maximum number of requested generation tokens.",
    "When the last of a prompt's `n` answers ends: the length of the longest.",
)
REQUEST_PARAMS_N = _counts(
    "request_params_n",
    "Histogram of the n request parameter.",
    "When the last of a prompt's `n` answers ends.",
    (1, 2, 5, 10, 20),
)
REQUEST_PARAMS_MAX_TOKENS = _counts(
    "request_params_max_tokens",
    "Histogram of the max_tokens request parameter.",
    f"{_END} What the request was given, also where it named no number.",
)
REQUEST_NUM_PREEMPTIONS = _counts(
    "request_num_preemptions", "Histogram of number of preemptions per request.", _END, (1, 2, 3, 4, 5, 10, 20)
)
TTFT = _times(
    "time_to_first_token",
    "Histogram of time to first token in seconds.",
    f"{_FIRST} Counted from the arrival of the request.",
    _TTFT,
)
ITL = _times(
    "inter_token_latency",
    "Histogram of inter-token latency in seconds.",
    "With every token but the first of a sequence.",
    _ITL,
)
TOKEN_GAP = _times(
    "time_per_output_token",
    "Histogram of time per output token in seconds.",
    "Only up to vLLM 0.12: the same as `vllm:inter_token_latency_seconds`.",
    _ITL,
)
TPOT = _times(
    "request_time_per_output_token",
    "Histogram of time_per_output_token_seconds per request.",
    f"{_END} Decode time by tokens less one, 0 for a single token.",
    _ITL,
)
E2E = _times("e2e_request_latency", "Histogram of e2e request latency in seconds.", f"{_END} From arrival.", _LATENCY)
QUEUE_TIME = _times(
    "request_queue_time",
    "Histogram of time spent in WAITING phase for request.",
    f"{_END} From being queued to the first admission.",
    _LATENCY,
)
INFERENCE_TIME = _times(
    "request_inference_time",
    "Histogram of time spent in RUNNING phase for request.",
    f"{_END} From the first admission to the last token.",
    _LATENCY,
)
PREFILL_TIME = _times(
    "request_prefill_time",
    "Histogram of time spent in PREFILL phase for request.",
    f"{_END} From the first admission to the first token.",
    _LATENCY,
)
DECODE_TIME = _times(
    "request_decode_time",
    "Histogram of time spent in DECODE phase for request.",
    f"{_END} From the first token to the last.",
    _LATENCY,
)
PREFILL_COMPUTED = _counts(
    "request_prefill_kv_computed_tokens",
    "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
    _END,
)


def hidden(conduct: Conduct) -> frozenset[Family]:
    """The families that a release does not have."""
    return frozenset(
        family
        for there, *families in (
            (conduct.counts_waiting_by_reason, WAITING_BY_REASON),
            (conduct.counts_prompt_tokens_by_source, PROMPT_TOKENS_BY_SOURCE, PROMPT_TOKENS_CACHED),
            (conduct.counts_prefill_computed, PREFILL_COMPUTED),
            (conduct.counts_prompt_tokens_recomputed, PROMPT_TOKENS_RECOMPUTED),
            (conduct.counts_admission_rejections, ADMISSION_REJECTIONS),
            (conduct.counts_cached_by_source, PROMPT_TOKENS_CACHED_BY_SOURCE, REQUEST_NUM_PREEMPTIONS),
        )
        if not there
        for family in families
    )


class VLLM:
    """The series of a server's engines under vLLM's names; `series` is in the order of vLLM's exposition.

    In a family the engines come in the order given; where a label splits it further, each of its values has them all.
    """

    def __init__(self, config: ServerConfig, ranks: Sequence[int], now: Time) -> None:
        """`ranks` are the data-parallel ranks of the engines."""
        self._engines = [(config.model.aliases[0], str(rank)) for rank in ranks]
        self.own_labels = {"model_name": (config.model.aliases[0],), "engine": tuple(map(str, ranks))}
        """Labels that tell these series from those of other servers, each with the values that it has here."""
        self.elsewhere = {"engine": config.ranks_elsewhere}
        """Values of these labels that are no series here, because other servers have those engines."""
        self._bounds = token_bounds(config.model.max_model_len)
        self._now = now
        conduct = config.engine.conduct
        self._hidden = hidden(conduct)
        self._known_scalars: dict[Family, Series[Scalar]] = {}
        self._known_histograms: dict[Family, Series[Histogram]] = {}
        self.series: list[AnySeries] = []
        self._labels = self._engines[0]
        """Those of the engine whose cells are being made."""
        self.measures: list[Measures] = []
        """What each engine reports to, in the order given."""
        for labels in self._engines:
            self._labels = labels
            self.measures.append(self._measures())
        if conduct.counts_time_per_output_token:
            gaps = histograms(TOKEN_GAP, now)
            for labels, measures in zip(self._engines, self.measures, strict=True):
                gaps.share(measures.inter_token_latency, *labels)
            self.series.append(gaps)
        info = self._scalars(CACHE_CONFIG)
        for _, engine in self._engines:
            info.cell(*cache_config(config, engine).values()).value = 1

    def refresh(self) -> None:
        """Nothing is worked out of other values."""

    def _scalars(self, family: Family) -> Series[Scalar]:
        series = self._known_scalars.get(family)
        if series is None:
            series = self._known_scalars[family] = scalars(family, self._now)
            if family not in self._hidden:
                self.series.append(series)
        return series

    def _scalar(self, family: Family) -> Scalar:
        return self._scalars(family).cell(*self._labels)

    def _split(self, family: Family, *values: str) -> dict[str, Scalar]:
        series = self._scalars(family)
        for value in values:
            for labels in self._engines:
                series.cell(*labels, value)
        return {value: series.cell(*self._labels, value) for value in values}

    def _histogram(self, family: Family) -> Histogram:
        series = self._known_histograms.get(family)
        if series is None:
            bounded = family if family.bounds else replace(family, bounds=self._bounds)
            series = self._known_histograms[family] = histograms(bounded, self._now)
            if family not in self._hidden:
                self.series.append(series)
        return series.cell(*self._labels)

    def _refusals(self) -> dict[str, Scalar]:
        series = self._scalars(ADMISSION_REJECTIONS)
        return {limit: series.cell(self._labels[0], limit) for limit in QUEUE_LIMITS}

    def _measures(self) -> Measures:
        running, waiting = self._scalar(RUNNING), self._scalar(WAITING)
        reasons = self._split(WAITING_BY_REASON, "capacity", "deferred")
        sleep_state = self._split(SLEEP_STATE, "awake", "weights_offloaded", "discard_all")
        sleep_state["awake"].value = 1
        kv_usage = self._scalar(KV_USAGE)
        prefix_queries, prefix_hits = self._scalar(PREFIX_QUERIES), self._scalar(PREFIX_HITS)
        external_queries, external_hits = self._scalar(EXTERNAL_QUERIES), self._scalar(EXTERNAL_HITS)
        for family in (MM_QUERIES, MM_HITS):
            self._scalar(family)
        preemptions, prompt_tokens = self._scalar(PREEMPTIONS), self._scalar(PROMPT_TOKENS)
        sources = self._split(PROMPT_TOKENS_BY_SOURCE, "local_compute", "local_cache_hit", "external_kv_transfer")
        cached = self._scalar(PROMPT_TOKENS_CACHED)
        recomputed = self._scalar(PROMPT_TOKENS_RECOMPUTED)
        tiers = self._split(PROMPT_TOKENS_CACHED_BY_SOURCE, "device", "host", "p2p", "disk", "external_unspecified")
        # Keyword arguments are evaluated in the order written, which is the order of the exposition.
        return Measures(
            running=running,
            waiting=waiting,
            waiting_for_capacity=reasons["capacity"],
            waiting_deferred=reasons["deferred"],
            sleep_state=sleep_state,
            kv_usage=kv_usage,
            prefix_queries=prefix_queries,
            prefix_hits=prefix_hits,
            prefix_hits_on_device=tiers["device"],
            prefix_hits_on_host=tiers["host"],
            prefix_hits_on_disk=tiers["disk"],
            prefix_hits_on_peer=tiers["p2p"],
            prefix_hits_elsewhere=tiers["external_unspecified"],
            external_queries=external_queries,
            external_hits=external_hits,
            preemptions=preemptions,
            prompt_tokens=prompt_tokens,
            prompt_tokens_computed=sources["local_compute"],
            prompt_tokens_hit=sources["local_cache_hit"],
            prompt_tokens_loaded=sources["external_kv_transfer"],
            prompt_tokens_cached=cached,
            prompt_tokens_recomputed=recomputed if PROMPT_TOKENS_RECOMPUTED not in self._hidden else None,
            generation_tokens=self._scalar(GENERATION_TOKENS),
            finished=self._split(REQUEST_SUCCESS, *FINISH_REASONS),
            refused=self._refusals(),
            request_prompt_tokens=self._histogram(REQUEST_PROMPT_TOKENS),
            request_generation_tokens=self._histogram(REQUEST_GENERATION_TOKENS),
            iteration_tokens=self._histogram(ITERATION_TOKENS),
            request_most_generation_tokens=self._histogram(REQUEST_MAX_NUM_GENERATION_TOKENS),
            request_n=self._histogram(REQUEST_PARAMS_N),
            request_max_tokens=self._histogram(REQUEST_PARAMS_MAX_TOKENS),
            request_preemptions=self._histogram(REQUEST_NUM_PREEMPTIONS),
            time_to_first_token=self._histogram(TTFT),
            inter_token_latency=self._histogram(ITL),
            time_per_output_token=self._histogram(TPOT),
            e2e_latency=self._histogram(E2E),
            queue_time=self._histogram(QUEUE_TIME),
            inference_time=self._histogram(INFERENCE_TIME),
            prefill_time=self._histogram(PREFILL_TIME),
            decode_time=self._histogram(DECODE_TIME),
            request_prefill_computed_tokens=self._histogram(PREFILL_COMPUTED),
        )
