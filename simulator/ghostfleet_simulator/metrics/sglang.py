"""How SGLang 0.5.10 names what it measures (srt/observability/metrics_collector.py), with `--enable-metrics`.

0.5.10 is the last release with `sglang:cache_config_info`, which schedulers read. It shares its metrics between
processes, so there are no `_created` series and none of the process.
"""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.metrics.families import Family, Kind
from ghostfleet_simulator.metrics.measures import Measures
from ghostfleet_simulator.metrics.naming import Naming

_SCHEDULER: Final = ("model_name", "engine_type", "tp_rank", "pp_rank", "moe_ep_rank")
_TOKENIZER: Final = ("model_name",)
_US: Final = 1_000_000

_TTFT: Final = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
_E2E: Final = (*_TTFT, 600, 1200, 1800, 2400)
_ITL: Final = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8),
    *(1.0, 2.0, 4.0, 6.0, 8.0),
)
_QUEUE: Final = (
    *(0.0, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, 300, 400, 500, 600, 700),
    *(800, 900, 1000, 1200, 1400, 1600, 1800, 2000, 2500, 3000),
)

_STEP: Final = "With every step of the engine."
_FIRST: Final = "When a sequence gives its first token."
_END: Final = "When a sequence ends, unless its client went away."
_IDLE: Final = "Stays at 0: "


def _gauge(name: str, text: str, moves: str) -> Family:
    return Family(f"sglang:{name}", Kind.GAUGE, text, moves, _SCHEDULER)


def _scheduler_counter(name: str, text: str, moves: str, *labels: str) -> Family:
    return Family(f"sglang:{name}", Kind.COUNTER, text, moves, (*_SCHEDULER, *labels))


def _counter(name: str, text: str, moves: str, *labels: str) -> Family:
    return Family(f"sglang:{name}", Kind.COUNTER, text, moves, (*_TOKENIZER, *labels))


def _times(name: str, text: str, moves: str, bounds: tuple[float, ...], labels: tuple[str, ...] = _TOKENIZER) -> Family:
    return Family(f"sglang:{name}_seconds", Kind.HISTOGRAM, text, moves, labels, bounds, per_unit=_US)


RUNNING = _gauge("num_running_reqs", "The number of running requests.", _STEP)
USED_TOKENS = _gauge("num_used_tokens", "The number of used tokens.", _STEP)
TOKEN_USAGE = _gauge("token_usage", "The token usage.", f"{_STEP} A share, 0 to 1.")
FULL_TOKEN_USAGE = _gauge(
    "full_token_usage", "The token usage for full attention layers.", "The same as `sglang:token_usage`."
)
SWA_TOKEN_USAGE = _gauge("swa_token_usage", "The token usage for SWA layers.", f"{_IDLE}all layers are alike.")
GEN_THROUGHPUT = _gauge(
    "gen_throughput",
    "The generation throughput (token/s).",
    "When it is read, over the time since it last changed, at least a second.",
)
QUEUE = _gauge("num_queue_reqs", "The number of requests in the waiting queue.", _STEP)
GRAMMAR_QUEUE = _gauge(
    "num_grammar_queue_reqs", "The number of requests in the grammar waiting queue.", f"{_IDLE}grammars cost nothing."
)
OFFLINE_BATCH = _gauge(
    "num_running_reqs_offline_batch",
    "The number of running low-priority offline batch requests(label is 'batch').",
    f"{_IDLE}there are no such requests.",
)
CACHE_HIT_RATE = _gauge(
    "cache_hit_rate",
    "The prefix cache hit rate.",
    "When it is read, over the prompts admitted since it last changed. A share, 0 to 1.",
)
MAX_TOTAL_TOKENS = _gauge("max_total_num_tokens", "Maximum total number of tokens in the KV cache pool.", "Never.")
RETRACTED = _scheduler_counter("num_retracted_requests", "Total number of retracted requests.", _STEP)
PAUSED = _gauge("num_paused_reqs", "The number of paused requests by async weight sync.", f"{_IDLE}no weights change.")
REALTIME_TOKENS = _scheduler_counter(
    "realtime_tokens",
    "Total number of tokens processed (updated on each log interval). mode: prefill_compute, prefill_cache, decode.",
    f"{_FIRST} `decode` with every token.",
    "mode",
)
QUEUE_TIME = _times("queue_time", "Histogram of queueing time in seconds.", _END, _QUEUE, _SCHEDULER)
CACHE_CONFIG = Family(
    "sglang:cache_config_info",
    Kind.GAUGE,
    "Cache configuration information.",
    "Always 1. Schedulers read both labels.",
    ("page_size", "num_pages"),
)
PROMPT_TOKENS = _counter("prompt_tokens", "Number of prefill tokens processed.", _END)
GENERATION_TOKENS = _counter("generation_tokens", "Number of generation tokens processed.", _END)
CACHED_TOKENS = _counter(
    "cached_tokens",
    "Number of cached prompt tokens by source (device/host/storage).",
    f"{_FIRST} `host` are those of the tiers of `kvCache.tiers`.",
    "cache_source",
)
REQUESTS = _counter("num_requests", "Number of requests processed.", _END)
ABORTED = _counter(
    "num_aborted_requests", "Number of requests aborted.", "When the server aborts a sequence, as when it ends."
)
TTFT = _times(
    "time_to_first_token",
    "Histogram of time to first token in seconds.",
    "When a sequence gives its first token.",
    _TTFT,
)
ITL = _times(
    "inter_token_latency",
    "Histogram of inter-token latency in seconds.",
    "With every token but the first of a sequence.",
    _ITL,
)
E2E = _times("e2e_request_latency", "Histogram of End-to-end request latency in seconds", f"{_END} From arrival.", _E2E)
RETRACTIONS = Family(
    "sglang:num_retractions",
    Kind.HISTOGRAM,
    "Histogram of retraction counts per request.",
    f"{_END} SGLang retracts where vLLM preempts.",
    _TOKENIZER,
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 75, 100),
)


class SGLang(Naming):
    """The series of a server's engines under SGLang's names."""

    labels = _SCHEDULER
    rank_label = "dp_rank"

    def _values(self) -> tuple[str, ...]:
        return (self.config.model.aliases[0], "unified", "0", "0", "0")

    def _engine(self) -> Measures:
        scalar, page = self._scalar, self.config.kv_cache.block_size
        usage = scalar(TOKEN_USAGE)
        measures = Measures(
            running=scalar(RUNNING),
            waiting=scalar(QUEUE),
            kv_usage=usage,
            preemptions=scalar(RETRACTED),
            prompt_tokens_computed=scalar(REALTIME_TOKENS, "prefill_compute"),
            prompt_tokens_cached=scalar(REALTIME_TOKENS, "prefill_cache"),
            generation_tokens=scalar(REALTIME_TOKENS, "decode"),
            prompt_tokens_hit=scalar(CACHED_TOKENS, "device"),
            prompt_tokens_loaded=scalar(CACHED_TOKENS, "host"),
            time_to_first_token=self._histogram(TTFT),
            inter_token_latency=self._histogram(ITL),
            e2e_latency=self._histogram(E2E),
            queue_time=self._histogram(QUEUE_TIME),
            request_preemptions=self._histogram(RETRACTIONS),
        )
        self._same(scalar(FULL_TOKEN_USAGE), usage)
        self._worked_out(scalar(USED_TOKENS), lambda: round(usage.value * self.tokens))
        self._rate(scalar(GEN_THROUGHPUT), measures.generation_tokens)
        self._ratio(scalar(CACHE_HIT_RATE), measures.prefix_hits, measures.prefix_queries)
        self._sum(scalar(PROMPT_TOKENS), measures.request_prompt_tokens)
        self._sum(scalar(GENERATION_TOKENS), measures.request_generation_tokens)
        self._count(scalar(REQUESTS), measures.request_prompt_tokens)
        self._same(scalar(ABORTED), measures.finished["abort"])
        for idle in (SWA_TOKEN_USAGE, GRAMMAR_QUEUE, OFFLINE_BATCH, PAUSED):
            scalar(idle)
        self._constant(scalar(MAX_TOTAL_TOKENS), self.tokens)
        self._constant(scalar(CACHE_CONFIG, str(page), str(self.blocks)), 1)
        return measures
