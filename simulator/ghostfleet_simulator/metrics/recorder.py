"""Where a server reports what happens, and where a scraper reads it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from ghostfleet_simulator import __version__
from ghostfleet_simulator.config import FailureType, Lora, ServerConfig
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.metrics.fake import fakes_of
from ghostfleet_simulator.metrics.families import Time
from ghostfleet_simulator.metrics.http import HttpMetrics
from ghostfleet_simulator.metrics.lora import LoraRequests
from ghostfleet_simulator.metrics.offload import OffloadMetrics
from ghostfleet_simulator.metrics.own import KVEventMetrics, OwnMetrics
from ghostfleet_simulator.metrics.process import ProcessMetrics
from ghostfleet_simulator.metrics.render import Exposition
from ghostfleet_simulator.metrics.requests import RequestLog, RequestRecord
from ghostfleet_simulator.metrics.sleep import SleepOperations
from ghostfleet_simulator.metrics.vllm import Dialect


def _created_wanted() -> bool:
    """prometheus_client's switch, which vLLM's users know: without it every counter has a `_created` series."""
    return os.environ.get("PROMETHEUS_DISABLE_CREATED_SERIES", "").lower() not in ("true", "1", "t")


class ServerMetrics:
    """All metrics of one server, and its last requests.

    Times of sequences are microseconds of the engine's clock; `now` is wall time in seconds, for time stamps.
    """

    def __init__(
        self, config: ServerConfig, *, engine: int = 0, now: Time = time.time, with_created: bool | None = None
    ) -> None:
        dialect = Dialect(config, engine, now)
        process = ProcessMetrics(now)
        self.measures = dialect.measures
        self.http = HttpMetrics(now)
        self.own = OwnMetrics(__version__, now)
        self._offload = OffloadMetrics((config.model.aliases[0], str(engine)), now) if config.kv_cache.tiers else None
        self.kv_events = KVEventMetrics(now) if config.kv_events.enabled else None
        self.requests = RequestLog()
        """The last requests that ended."""
        self._started_at = now()
        self._model = config.model.aliases[0]
        self._rank = engine
        self._now = now
        self._lora = LoraRequests(now)
        self._lora_on = self._lora_exposed = False
        self._fakes = fakes_of(dialect, self._lora.series, now)

        def refresh() -> None:
            process.refresh()
            self._fakes.refresh()

        self._exposition = Exposition(
            [
                *process.series,
                *dialect.series,
                *(self._offload.series if self._offload else ()),
                *self.http.series,
                *self.own.series,
                *(self.kv_events.series if self.kv_events else ()),
            ],
            with_created=_created_wanted() if with_created is None else with_created,
            refresh=refresh,
        )
        self.sleep_operations = SleepOperations(self._exposition.add, now)

    # --- the engine ------------------------------------------------------------------------------

    def on_step(self, step: Step, now_us: int, running: int, waiting: int, deferred: int, kv_usage: float) -> None:  # noqa: ARG002 - dialects with throughput gauges need the time
        """A step was made. `waiting` are the sequences in the queue, `deferred` those set aside for now.

        On the hot path, up to 1,000 times a second: nothing in it is per token.
        """
        measures = self.measures
        measures.running.value = running
        measures.waiting.value = waiting + deferred
        measures.waiting_for_capacity.value = waiting
        measures.waiting_deferred.value = deferred
        measures.kv_usage.value = kv_usage
        if step.preempted:
            measures.preemptions.value += step.preempted
        if step.queried_tokens:
            measures.prefix_queries.value += step.queried_tokens
            measures.prefix_hits.value += step.hit_tokens
            measures.prefix_hits_on_device.value += step.hit_tokens
            if self._offload is not None:
                measures.external_queries.value += step.queried_tokens - step.hit_tokens
                measures.external_hits.value += step.loaded_tokens
                measures.prefix_hits_on_host.value += step.loaded_tokens - step.loaded_from_disk
                measures.prefix_hits_on_disk.value += step.loaded_from_disk
        if self._offload is not None:
            self._offload.on_step(step.transfers, step.offload_failures)
        if self._lora_on:
            self._lora.on_step(step, idle=not (running or waiting or deferred or step.tokens))
        tokens = len(step.tokens)
        if not tokens:
            return  # vLLM has no iteration statistics without output, a step that only prefills in part included
        measures.generation_tokens.value += tokens
        prompt_tokens, cached_tokens = step.prompt_tokens, step.cached_tokens
        if prompt_tokens:
            measures.prompt_tokens.value += prompt_tokens
            measures.prompt_tokens_computed.value += prompt_tokens - cached_tokens
            measures.prompt_tokens_hit.value += cached_tokens - step.cached_elsewhere
            measures.prompt_tokens_loaded.value += step.cached_elsewhere
            measures.prompt_tokens_cached.value += cached_tokens
            if measures.prompt_tokens_recomputed is not None:
                recomputed = sum(seq.cached_tokens + 1 == len(seq.prompt) for seq in step.first)
                measures.prompt_tokens_recomputed.value += recomputed
                measures.prompt_tokens_hit.value += recomputed
        measures.iteration_tokens.observe(prompt_tokens - cached_tokens + tokens)
        observe = measures.inter_token_latency.observe
        for gap_us, times in step.gaps.items():
            observe(gap_us, times)

    def on_wake(self, lateness_us: int) -> None:
        """Tokens came out this long after they had been due."""
        self.own.lateness.observe(lateness_us)

    # --- sequences and requests ------------------------------------------------------------------

    def on_first_token(self, seq: Sequence, now_us: int) -> None:
        """A sequence has produced its first token, and it reached the API at `now_us`."""
        self.measures.time_to_first_token.observe(now_us - seq.arrival_us)

    def on_finished(self, seq: Sequence, now_us: int) -> None:
        """A sequence ended, and that reached the API at `now_us`.

        An interval whose ends did not both happen, in a sequence that was aborted early, counts as 0.
        """
        measures = self.measures
        counter = measures.finished.get(seq.finish_reason or "abort")
        if counter is not None:
            counter.value += 1
        produced, prompt = seq.produced, len(seq.prompt)
        decode_us = seq.last_token_us - seq.first_token_us if produced else 0
        measures.e2e_latency.observe(now_us - seq.arrival_us)
        measures.queue_time.observe(_between(seq.queued_us, seq.scheduled_us))
        measures.prefill_time.observe(_between(seq.scheduled_us, seq.first_token_us))
        measures.decode_time.observe(decode_us)
        measures.inference_time.observe(_between(seq.scheduled_us, seq.last_token_us))
        measures.time_per_output_token.observe(decode_us / (produced - 1) if produced > 1 else 0)
        measures.request_prompt_tokens.observe(prompt)
        measures.request_prefill_computed_tokens.observe(prompt - seq.cached_tokens)
        measures.request_generation_tokens.observe(produced)
        measures.request_preemptions.observe(seq.preemptions)
        if seq.max_tokens:
            measures.request_max_tokens.observe(seq.max_tokens)
        self._remember(seq, now_us)

    def on_aborted(self, seq: Sequence, now_us: int) -> None:
        """The client of a sequence went away. vLLM counts it nowhere; it is among the last requests all the same."""
        self._remember(seq, now_us)

    def on_turned_away(self, limit: str) -> None:
        """A queue limit, one of `vllm.QUEUE_LIMITS`, turned a request away."""
        self.measures.refused[limit].value += 1

    def on_prompt_done(self, n: int, most_tokens: int) -> None:
        """The last of a prompt's `n` answers ended; the longest had `most_tokens` tokens."""
        self.measures.request_n.observe(n)
        self.measures.request_most_generation_tokens.observe(most_tokens)

    def on_fault(self, fault: FailureType, request_id: str = "", model: str = "") -> None:
        """An injected failure befell a generation request."""
        self.count_fault(fault)
        self.requests.add(
            RequestRecord(request_id, model or self._model, self._now(), rank=self._rank, fault=fault.value)
        )

    def count_fault(self, fault: FailureType) -> None:
        """An injected failure befell something that is not among the last requests."""
        self.own.faults[fault].value += 1

    def _remember(self, seq: Sequence, now_us: int) -> None:
        if self._lora_on:
            self._lora.forget(seq)
        started, spoken = seq.scheduled_us >= 0, seq.first_token_us >= 0
        self.requests.add(
            RequestRecord(
                id=seq.id,
                model=seq.lora.name if seq.lora else self._model,
                ended_at=self._now(),
                prompt_tokens=len(seq.prompt),
                cached_tokens=seq.cached_tokens,
                completion_tokens=seq.produced,
                queue_time=(seq.scheduled_us - seq.queued_us) / 1e6 if started else None,
                time_to_first_token=(seq.first_token_us - seq.arrival_us) / 1e6 if spoken else None,
                latency=(now_us - seq.arrival_us) / 1e6,
                finish_reason=seq.finish_reason,
                rank=self._rank,
                found=seq.found,
            )
        )

    # --- the rest --------------------------------------------------------------------------------

    def on_http(
        self, handler: str, method: str, status: int, request_bytes: int, response_bytes: int, seconds: float
    ) -> None:
        """An HTTP response has ended. `handler` is the route's path, `none` for a path that has no route."""
        self.http.observe(handler, method, status, request_bytes, response_bytes, seconds)

    def on_sleep(self, state: str | None) -> None:
        """The engine is now `awake`, `weights_offloaded` or `discard_all`; for None vLLM shows none of them."""
        for name, cell in self.measures.sleep_state.items():
            cell.value = int(name == state)

    def on_refused(self, sequences: int) -> None:
        """The engine turned sequences away because generation is paused; vLLM counts them as failed."""
        self.measures.finished["error"].value += sequences

    def fake(self, settings: Mapping[str, str]) -> None:
        """Have these series, and no others, show what they are told to; raises `InvalidInput`."""
        self._fakes.use(settings)
        if self._fakes.fakes(self._lora.series):
            self._expose_lora()

    def use_lora(self, lora: Lora) -> None:
        """Take over the adapters' settings; the metrics of adapters come with the first that lets there be some."""
        self._lora.max_loras = lora.max_loras
        if lora.on:
            self._lora_on = True
            self._expose_lora()

    def _expose_lora(self) -> None:
        if not self._lora_exposed:
            self._lora_exposed = True
            self._exposition.add(self._lora.series)

    def set_profile(self, revision: int, live_hash: str) -> None:
        """A configuration came into force."""
        self.own.set_profile(revision, live_hash)

    @property
    def uptime_seconds(self) -> float:
        """Time since the server was made."""
        return self._now() - self._started_at

    def totals(self) -> dict[str, int]:
        """Counters since the start: requests by finish reason and with a fault, and tokens."""
        measures = self.measures
        totals = {reason: int(counter.value) for reason, counter in measures.finished.items()}
        totals["fault"] = int(sum(counter.value for counter in self.own.faults.values()))
        totals["preemptions"] = int(measures.preemptions.value)
        totals["promptTokens"] = int(measures.prompt_tokens.value)
        totals["generationTokens"] = int(measures.generation_tokens.value)
        return totals

    def render(self) -> bytes:
        """The text exposition; its type is `render.CONTENT_TYPE`."""
        return self._exposition.render()


def _between(begin_us: int, end_us: int) -> int:
    return end_us - begin_us if begin_us >= 0 and end_us >= 0 else 0
