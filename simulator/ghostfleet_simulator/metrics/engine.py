"""What one engine reports as it runs; it is what the engine's driver tells."""

from __future__ import annotations

from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.metrics.families import Histogram, Time
from ghostfleet_simulator.metrics.lora import LoraRequests
from ghostfleet_simulator.metrics.measures import Measures
from ghostfleet_simulator.metrics.offload import OffloadMetrics
from ghostfleet_simulator.metrics.requests import RequestLog, RequestRecord
from ghostfleet_simulator.metrics.transfer import TransferMetrics


class EngineMetrics:
    """The metrics of one data-parallel rank, and its entries in the last requests of its server.

    Times of sequences are microseconds of the engine's clock; `now` is wall time in seconds, for time stamps.
    """

    def __init__(
        self,
        rank: int,
        model: str,
        measures: Measures,
        *,
        offload: OffloadMetrics | None,
        transfers: TransferMetrics | None,
        lora: LoraRequests,
        lateness: Histogram,
        log: RequestLog,
        now: Time,
    ) -> None:
        self.rank = rank
        self.measures = measures
        self._model = model
        self._offload = offload
        self.transfers = transfers
        """What becomes of KV cache that goes between servers, where it can."""
        self._lora = lora
        self._lateness = lateness
        self._log = log
        self._now = now

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
            if self._offload is not None or self.transfers is not None:
                measures.external_queries.value += step.queried_tokens - step.hit_tokens
                measures.external_hits.value += step.loaded_tokens + step.pulled_tokens
                p2p = self.transfers is not None and self.transfers.p2p
                (measures.prefix_hits_on_peer if p2p else measures.prefix_hits_elsewhere).value += step.pulled_tokens
                measures.prefix_hits_on_host.value += step.loaded_tokens - step.loaded_from_disk
                measures.prefix_hits_on_disk.value += step.loaded_from_disk
        if self.transfers is not None:
            self.transfers.on_step()
        if self._offload is not None:
            self._offload.on_step(step.transfers, step.offload_failures)
        if self._lora.on:
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
        self._lateness.observe(lateness_us)

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

    def on_prompt_done(self, n: int, most_tokens: int) -> None:
        """The last of a prompt's `n` answers ended; the longest had `most_tokens` tokens."""
        self.measures.request_n.observe(n)
        self.measures.request_most_generation_tokens.observe(most_tokens)

    def on_refused(self) -> None:
        """The engine turned a sequence away because generation is paused; vLLM counts it as failed."""
        self.measures.finished["error"].value += 1

    def totals(self) -> dict[str, int]:
        """Counters since the start: requests by finish reason, and tokens."""
        measures = self.measures
        return {
            **{reason: int(counter.value) for reason, counter in measures.finished.items()},
            "preemptions": int(measures.preemptions.value),
            "promptTokens": int(measures.prompt_tokens.value),
            "generationTokens": int(measures.generation_tokens.value),
        }

    def _remember(self, seq: Sequence, now_us: int) -> None:
        if self._lora.on:
            self._lora.forget(seq)
        started, spoken = seq.scheduled_us >= 0, seq.first_token_us >= 0
        self._log.add(
            RequestRecord(
                id=seq.id,
                model=seq.lora.name if seq.lora else self._model,
                ended_at=self._now(),
                prompt_tokens=len(seq.prompt),
                cached_tokens=seq.told_cached_tokens,
                completion_tokens=seq.produced,
                queue_time=(seq.scheduled_us - seq.queued_us) / 1e6 if started else None,
                time_to_first_token=(seq.first_token_us - seq.arrival_us) / 1e6 if spoken else None,
                latency=(now_us - seq.arrival_us) / 1e6,
                finish_reason=seq.finish_reason,
                rank=self.rank,
                found=seq.found,
            )
        )


def _between(begin_us: int, end_us: int) -> int:
    return end_us - begin_us if begin_us >= 0 and end_us >= 0 else 0
