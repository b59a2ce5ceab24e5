"""What answers tell beside their text: token ids, logprobs, cached tokens, times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ghostfleet_simulator.api.logprobs import AnswerLogprobs, prompt_logprobs
from ghostfleet_simulator.api.responses import NOTHING, Told, Usage
from ghostfleet_simulator.engine.sequence import Sequence as Answered
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Kind, Prompt, Work
from ghostfleet_simulator.text.logprobs import Vocabulary

_encode: Final = msgspec.json.Encoder().encode

_LOAD_FORMAT: Final = b"endpoint-load-metrics-format"


class Teller:
    """What the chunks of one answer, or the answer in one piece, tell beside its text."""

    __slots__ = ("_logprobs", "_prompt", "_token_ids")

    def __init__(self, work: Work, prompt: Prompt, server: SimulatedServer) -> None:
        details = work.details
        self._token_ids = details.token_ids
        self._prompt: Sequence[int] | None = None
        # vLLM tells the prompt's tokens in the first chunk of an echoed completion, asked for or not.
        if work.kind is Kind.COMPLETION and (details.token_ids or (details.echo and work.stream)):
            self._prompt = prompt.token_ids
        self._logprobs: AnswerLogprobs | None = None
        if details.logprobs is not None:
            self._logprobs = AnswerLogprobs(work, server.tokenizer.derived(Vocabulary), prompt.token_ids)

    def told(self, token_ids: Sequence[int]) -> Told:
        """What comes with the next tokens of the answer."""
        prompt, self._prompt = self._prompt, None
        return Told(
            NOTHING.logprobs if self._logprobs is None else self._logprobs.told(token_ids),
            _encode(token_ids) if self._token_ids else NOTHING.token_ids,
            NOTHING.prompt_token_ids if prompt is None else _encode(prompt),
        )


def teller_for(work: Work, prompt: Prompt, server: SimulatedServer) -> Teller | None:
    """The teller of an answer, if there is anything to tell."""
    details = work.details
    needed = details.logprobs is not None or details.token_ids or details.echo
    return Teller(work, prompt, server) if needed else None


def told_of_prompt(work: Work, prompt: Prompt, server: SimulatedServer) -> bytes:
    """The `prompt_logprobs` of an answer in one piece."""
    count = work.details.prompt_logprobs
    if count is None:
        return b"null"
    return prompt_logprobs(server.tokenizer.derived(Vocabulary), prompt.token_ids, count)


def usage_of(work: Work, generation: Generation, server: SimulatedServer) -> Usage:
    """Tokens of all prompts, each once however many answers it has, and of all answers."""
    prompts = sum(len(prompt.token_ids) for prompt in work.prompts)
    completions = sum(seq.produced for seq in generation.sequences)
    if not server.config.api.enable_prompt_tokens_details:
        return Usage(prompts, completions)
    # vLLM tells those of the first output of a stream, and of the last prompt of an answer in one piece.
    seq = generation.sequences[0 if work.stream else -1]
    cached = seq.told_cached_tokens
    if work.kind is not Kind.CHAT:
        return Usage(prompts, completions, cached)
    cache = server.config.kv_cache
    full = len(seq.prompt) // cache.block_size * cache.block_size if cache.enable_prefix_caching else 0
    return Usage(prompts, completions, cached, max(0, full - seq.cached_tokens))


def times_of(generation: Generation, server: SimulatedServer) -> dict[str, float | None] | None:
    """The `metrics` of an answer, where the server tells them and the request has one answer; times in milliseconds.

    Source: vLLM 0.33 entrypoints/generate/base/serving.py, `build_per_request_timing_metrics`.
    """
    if not server.config.api.enable_per_request_metrics or len(generation.sequences) != 1:
        return None
    seq = generation.sequences[0]
    decode_ms = _milliseconds(seq.first_token_us, seq.last_token_us)
    inference_ms = _milliseconds(seq.scheduled_us, seq.last_token_us)
    return {
        "time_to_first_token_ms": _milliseconds(seq.scheduled_us, seq.first_token_us),
        "generation_time_ms": decode_ms,
        "queue_time_ms": _milliseconds(seq.queued_us, seq.scheduled_us),
        "mean_itl_ms": decode_ms / (seq.produced - 1) if decode_ms is not None and seq.produced > 1 else None,
        "tokens_per_second": seq.produced / inference_ms * 1000 if inference_ms else None,
        "speculative_decoding": None,
    }


def transfer_of(seq: Answered, server: SimulatedServer) -> bytes:
    """The `kv_transfer_params` of an answer, as JSON."""
    params = server.ranks.transfer_params(seq)
    return b"null" if params is None else _encode(params)


def _milliseconds(begin_us: int, end_us: int) -> float | None:
    return (end_us - begin_us) / 1000 if begin_us >= 0 and end_us >= 0 else None


def load_headers(headers: Iterable[tuple[bytes, bytes]], server: SimulatedServer) -> list[tuple[bytes, bytes]]:
    """The ORCA header of an answer in one piece, where the `headers` of its request ask for it.

    Source: vLLM 0.33 entrypoints/serve/utils/orca_metrics.py.
    """
    wanted = next((value for name, value in headers if name == _LOAD_FORMAT), b"").lower()
    if wanted not in (b"text", b"json"):
        return []
    named = {"num_requests_waiting": float(server.waiting), "kv_cache_usage_perc": float(server.kv_usage)}
    if wanted == b"text":
        told = "TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
    else:
        told = "JSON " + json.dumps({"named_metrics": named})
    return [(b"endpoint-load-metrics", told.encode())]
