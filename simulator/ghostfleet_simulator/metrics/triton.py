"""How Triton names what it measures: of any model, and of one that its TensorRT-LLM backend runs.

Sources: triton-inference-server docs/user_guide/metrics.md, and of TensorRT-LLM
triton_backend/inflight_batcher_llm/src/custom_metrics_reporter/custom_metrics_reporter.cc. Triton is not written in
Python: a counter has its bare name, and there are no `_created` series and none of the process.
"""

from __future__ import annotations

from typing import Final

from ghostfleet_simulator.metrics.families import Family, Kind
from ghostfleet_simulator.metrics.measures import Measures
from ghostfleet_simulator.metrics.naming import Naming

_MODEL: Final = ("model", "version")
_LENGTHS: Final = (10.0, 50.0, 100.0, 500.0, 1000.0)

_STEP: Final = "With every step of the engine."
_END: Final = "When a sequence ends, unless its client went away."
_FIRST: Final = "When a sequence gives its first token."
_IDLE: Final = "Stays at 0: "


def _counter(name: str, text: str, moves: str, *labels: str) -> Family:
    return Family(f"nv_inference_{name}", Kind.COUNTER, text, moves, (*_MODEL, *labels), total=False)


def _kinds(name: str, text: str, moves: str, label: str) -> Family:
    return Family(f"nv_trt_llm_{name}", Kind.GAUGE, text, moves, (*_MODEL, label))


SUCCESS = _counter("request_success", "Number of successful inference requests, all batch sizes", _END)
FAILURE = _counter("request_failure", "Number of failed inference requests, all batch sizes", _END, "reason")
COUNT = _counter("count", "Number of inferences performed (does not include cached requests)", _END)
EXECUTIONS = _counter(
    "exec_count",
    "Number of model executions performed (does not include cached requests)",
    f"{_END} A scheduler that takes it for the number of running requests reads a sum that only grows, as on a real "
    "server.",
)
REQUEST_US = _counter(
    "request_duration_us", "Cumulative inference request duration in microseconds (includes cached requests)", _END
)
QUEUE_US = _counter(
    "queue_duration_us", "Cumulative inference queuing duration in microseconds (includes cached requests)", _END
)
INPUT_US = _counter(
    "compute_input_duration_us",
    "Cumulative compute input duration in microseconds (does not include cached requests)",
    f"{_IDLE}inputs cost nothing.",
)
INFER_US = _counter(
    "compute_infer_duration_us",
    "Cumulative compute inference duration in microseconds (does not include cached requests)",
    _END,
)
OUTPUT_US = _counter(
    "compute_output_duration_us",
    "Cumulative inference compute output duration in microseconds (does not include cached requests)",
    f"{_IDLE}outputs cost nothing.",
)
PENDING = Family(
    "nv_inference_pending_request_count",
    Kind.GAUGE,
    "Instantaneous number of pending requests awaiting execution per-model.",
    _STEP,
    _MODEL,
)
FIRST_RESPONSE = Family(
    "nv_inference_first_response_histogram_ms",
    Kind.HISTOGRAM,
    "Duration from request to first response in milliseconds",
    _FIRST,
    _MODEL,
    (100.0, 500.0, 2000.0, 5000.0),
    per_unit=1000,
)

REQUESTS = _kinds("request_metrics", "TRT LLM request metrics", _STEP, "request_type")
KV_CACHE = _kinds("kv_cache_block_metrics", "TRT LLM KV cache block metrics", _STEP, "kv_cache_block_type")
MEMORY = _kinds("runtime_memory_metrics", "TRT LLM runtime memory metrics", f"{_IDLE}there is no GPU.", "memory_type")
BATCHER = _kinds(
    "inflight_batcher_metrics",
    "TRT LLM inflight_batcher-specific metrics",
    _STEP,
    "inflight_batcher_specific_metric",
)
GENERAL = _kinds("general_metrics", "General TRT LLM metrics", _STEP, "general_type")
INPUT_TOKENS = Family(
    "nv_llm_input_token_len",
    Kind.HISTOGRAM,
    "TRT LLM response metrics",
    _END,
    (*_MODEL, "response_metric_type"),
    _LENGTHS,
)
OUTPUT_TOKENS = Family(
    "nv_llm_output_token_len",
    Kind.HISTOGRAM,
    "TRT LLM response metrics",
    _END,
    (*_MODEL, "response_metric_type"),
    _LENGTHS,
)


class Triton(Naming):
    """The series of a server's engines as Triton has them for any model."""

    labels = _MODEL

    def _values(self) -> tuple[str, ...]:
        return (self.config.model.aliases[0], "1")

    def _engine(self) -> Measures:
        measures = Measures(
            waiting=self._scalar(PENDING),
            time_to_first_token=self._histogram(FIRST_RESPONSE),
        )
        self._inferences(measures)
        return measures

    def _inferences(self, measures: Measures) -> None:
        """What Triton counts of every model."""
        scalar, ended, finished = self._scalar, measures.e2e_latency, measures.finished
        for reason in ("stop", "length", "repetition"):
            self._same(scalar(SUCCESS), finished[reason])
        for reason in ("REJECTED", "BACKEND"):
            scalar(FAILURE, reason)
        self._same(scalar(FAILURE, "CANCELED"), finished["abort"])
        self._same(scalar(FAILURE, "OTHER"), finished["error"])
        self._count(scalar(COUNT), ended)
        self._count(scalar(EXECUTIONS), ended)
        self._sum(scalar(REQUEST_US), ended)
        self._sum(scalar(QUEUE_US), measures.queue_time)
        self._sum(scalar(INFER_US), measures.inference_time)
        for family in (INPUT_US, OUTPUT_US):
            scalar(family)


class TritonTensorRTLLM(Triton):
    """Those, and what the TensorRT-LLM backend adds."""

    def _engine(self) -> Measures:
        scalar, blocks, size = self._scalar, self.blocks, self.config.kv_cache.block_size
        measures = Measures(
            running=scalar(REQUESTS, "scheduled"),
            waiting=scalar(REQUESTS, "waiting"),
            kv_usage=scalar(KV_CACHE, "fraction"),
            time_to_first_token=self._histogram(FIRST_RESPONSE),
            request_prompt_tokens=self._histogram(INPUT_TOKENS, "total_input_tokens"),
            request_generation_tokens=self._histogram(OUTPUT_TOKENS, "total_output_tokens"),
        )
        running, waiting, usage, hits = measures.running, measures.waiting, measures.kv_usage, measures.prefix_hits
        self._same(scalar(PENDING), waiting)
        self._same(scalar(REQUESTS, "active"), running)
        self._same(scalar(REQUESTS, "active"), waiting)
        self._constant(scalar(REQUESTS, "max"), self.config.limits.max_num_seqs)
        self._worked_out(scalar(KV_CACHE, "used"), lambda: round(usage.value * blocks))
        self._worked_out(scalar(KV_CACHE, "free"), lambda: blocks - round(usage.value * blocks))
        self._worked_out(scalar(KV_CACHE, "reused"), lambda: hits.value // size)
        self._constant(scalar(KV_CACHE, "max"), blocks)
        self._constant(scalar(KV_CACHE, "tokens_per"), size)
        self._same(scalar(BATCHER, "generation_requests"), running)
        self._worked_out(scalar(GENERAL, "timestamp"), lambda: int(self.now()))
        self._count(scalar(GENERAL, "iteration_counter"), measures.iteration_tokens)
        for family, kind in (
            (REQUESTS, "context"),
            (BATCHER, "total_context_tokens"),
            (BATCHER, "micro_batch_id"),
            (BATCHER, "paused_requests"),
            *((MEMORY, kind) for kind in ("cpu", "gpu", "pinned")),
        ):
            scalar(family, kind)
        self._inferences(measures)
        return measures
