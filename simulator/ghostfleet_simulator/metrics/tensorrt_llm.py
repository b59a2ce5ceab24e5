"""How `trtllm-serve` names what it measures (TensorRT-LLM, tensorrt_llm/metrics/collector.py, of 2026).

It shares its metrics between processes, so there are no `_created` series and none of the process.
"""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.metrics.families import Family, Kind
from ghostfleet_simulator.metrics.measures import FINISH_REASONS, Measures
from ghostfleet_simulator.metrics.naming import Naming

_ENGINE: Final = ("model_name", "engine_type")
_US: Final = 1_000_000

_LATENCY: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TTFT: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
_TPOT: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_PREFILL: Final = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)

_STEP: Final = "With every step of the engine."
_FIRST: Final = "When a sequence gives its first token."
_END: Final = "When a sequence ends, unless its client went away."
_ADMITTED: Final = "When a sequence is admitted and the prefix cache is on."


def _gauge(name: str, text: str, moves: str) -> Family:
    return Family(f"trtllm_{name}", Kind.GAUGE, text, moves, _ENGINE)


def _counter(name: str, text: str, moves: str, *labels: str) -> Family:
    return Family(f"trtllm_{name}", Kind.COUNTER, text, moves, (*_ENGINE, *labels))


def _times(name: str, text: str, bounds: tuple[float, ...], moves: str = _END) -> Family:
    return Family(f"trtllm_{name}_seconds", Kind.HISTOGRAM, text, moves, _ENGINE, bounds, per_unit=_US)


SUCCESS = _counter("request_success", "Count of successfully processed requests.", _END, "finished_reason")
E2E = _times("e2e_request_latency", "Histogram of end to end request latency in seconds.", _LATENCY)
TTFT = _times("time_to_first_token", "Histogram of time to first token in seconds.", _TTFT, _FIRST)
TPOT = _times("time_per_output_token", "Histogram of time per output token in seconds.", _TPOT)
QUEUE_TIME = _times("request_queue_time", "Histogram of time spent in WAITING phase for request.", _LATENCY)
PREFILL_TIME = _times(
    "request_prefill_time",
    "Histogram of prefill (context) phase duration in seconds (first_token_time - first_scheduled_time).",
    _PREFILL,
)
DECODE_TIME = _times(
    "request_decode_time",
    "Histogram of decode (generation) phase duration in seconds (last_token_time - first_token_time).",
    _LATENCY,
)
INFERENCE_TIME = _times(
    "request_inference_time",
    "Histogram of total inference duration in seconds (last_token_time - first_scheduled_time).",
    _LATENCY,
)
PROMPT_TOKENS = _counter("prompt_tokens", "Cumulative number of prompt (input) tokens processed.", _FIRST)
GENERATION_TOKENS = _counter(
    "generation_tokens", "Cumulative number of generation (output) tokens produced.", "With every token."
)
CACHED_TOKENS = _counter(
    "prompt_cached_tokens",
    "Process-lifetime total prompt tokens served from KV cache. Resets only when the serving process restarts, not "
    "when the KV cache is flushed or evicted.",
    _FIRST,
)
HIT_RATE = _gauge("kv_cache_hit_rate", "KV cache hit rate", f"{_ADMITTED} Over all blocks so far. A share, 0 to 1.")
REUSED_BLOCKS = _counter(
    "kv_cache_reused_blocks", "Cumulative number of KV cache blocks reused (cache hits)", _ADMITTED
)
MISSED_BLOCKS = _counter(
    "kv_cache_missed_blocks", "Cumulative number of KV cache blocks missed (cache misses)", _ADMITTED
)
UTILIZATION = _gauge("kv_cache_utilization", "KV cache utilization", f"{_STEP} A share, 0 to 1.")
RUNNING = _gauge("num_requests_running", "Number of active requests", _STEP)
WAITING = _gauge("num_requests_waiting", "Number of queued requests", _STEP)
COMPLETED = _counter("num_requests_completed", "Total number of completed requests across iterations", _END)
MAX_ACTIVE = _gauge("max_num_active_requests", "Maximum number of active requests", "Never.")
MAX_BATCH_STATIC = _gauge("max_batch_size_static", "Static maximum batch size", "Never.")
MAX_BATCH_RUNTIME = _gauge("max_batch_size_runtime", "Runtime maximum batch size", "Never.")
MAX_TOKENS_RUNTIME = _gauge("max_num_tokens_runtime", "Runtime maximum number of tokens", "Never.")
MAX_BLOCKS = _gauge("kv_cache_max_blocks", "Maximum number of KV cache blocks", "Never. Schedulers read it.")
FREE_BLOCKS = _gauge("kv_cache_free_blocks", "Number of free KV cache blocks", _STEP)
USED_BLOCKS = _gauge("kv_cache_used_blocks", "Number of used KV cache blocks", _STEP)
TOKENS_PER_BLOCK = _gauge(
    "kv_cache_tokens_per_block", "Number of tokens per KV cache block", "Never. Schedulers read it."
)


class TensorRTLLM(Naming):
    """The series of a server's engines under the names of `trtllm-serve`."""

    labels = _ENGINE

    def _values(self) -> tuple[str, ...]:
        return (self.config.model.aliases[0], "trtllm")

    def _engine(self) -> Measures:
        scalar, size, limits = self._scalar, self.config.kv_cache.block_size, self.config.limits
        measures = Measures(
            running=scalar(RUNNING),
            waiting=scalar(WAITING),
            kv_usage=scalar(UTILIZATION),
            prompt_tokens=scalar(PROMPT_TOKENS),
            prompt_tokens_cached=scalar(CACHED_TOKENS),
            generation_tokens=scalar(GENERATION_TOKENS),
            finished={reason: scalar(SUCCESS, reason) for reason in FINISH_REASONS},
            e2e_latency=self._histogram(E2E),
            time_to_first_token=self._histogram(TTFT),
            time_per_output_token=self._histogram(TPOT),
            queue_time=self._histogram(QUEUE_TIME),
            prefill_time=self._histogram(PREFILL_TIME),
            decode_time=self._histogram(DECODE_TIME),
            inference_time=self._histogram(INFERENCE_TIME),
        )
        usage, hits, queries = measures.kv_usage, measures.prefix_hits, measures.prefix_queries
        self._worked_out(scalar(HIT_RATE), lambda: hits.value / queries.value if queries.value else 0)
        self._worked_out(scalar(REUSED_BLOCKS), lambda: hits.value // size)
        self._worked_out(scalar(MISSED_BLOCKS), lambda: (queries.value - hits.value) // size)
        self._count(scalar(COMPLETED), measures.e2e_latency)
        self._worked_out(scalar(USED_BLOCKS), lambda: round(usage.value * self.blocks))
        self._worked_out(scalar(FREE_BLOCKS), lambda: self.blocks - round(usage.value * self.blocks))
        for most in (MAX_ACTIVE, MAX_BATCH_STATIC, MAX_BATCH_RUNTIME):
            self._constant(scalar(most), limits.max_num_seqs)
        self._constant(scalar(MAX_TOKENS_RUNTIME), limits.max_num_batched_tokens)
        self._constant(scalar(MAX_BLOCKS), self.blocks)
        self._constant(scalar(TOKENS_PER_BLOCK), size)
        return measures
