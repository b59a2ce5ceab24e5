"""Sampling parameters: their ranges, and what the engine's front end finds wrong with them later on.

Source: vLLM 0.33 sampling_params.py (`from_optional`, `__post_init__`, `_verify_args`, `verify`) and
v1/engine/input_processor.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from ghostfleet_simulator.api.errors import ApiError, validation_error
from ghostfleet_simulator.api.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest
from ghostfleet_simulator.runtime.work import Sampling

MAX_N: Final = 16384
"""vLLM's VLLM_MAX_N_SEQUENCES."""
MAX_LOGPROB_TOKEN_IDS: Final = 128

GREEDY_BELOW: Final = 1e-5


def verified(request: GenerationRequest, max_tokens: int, asked: int | None) -> Sampling:
    """The sampling parameters of a request for a prompt that leaves room for `max_tokens`. Raises `ApiError`."""
    for problem in _problems(request, max_tokens):
        raise problem
    stop = request.stop
    return Sampling(
        max_tokens=max_tokens,
        requested_max_tokens=asked,
        min_tokens=request.min_tokens,
        ignore_eos=request.ignore_eos,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        stop_token_ids=frozenset(request.stop_token_ids or ()),
        include_stop_str_in_output=request.include_stop_str_in_output,
        skip_special_tokens=request.skip_special_tokens is not False,
        n=_count(request),
        seed=None if request.seed == -1 else request.seed,
    )


def is_greedy(request: GenerationRequest) -> bool:
    """Whether the most likely token is taken every time."""
    return request.temperature is not None and request.temperature < GREEDY_BELOW


def _count(request: GenerationRequest) -> int:
    n = request.n if isinstance(request, (ChatCompletionRequest, CompletionRequest)) else 1
    return 1 if n is None else n


def _problems(request: GenerationRequest, max_tokens: int) -> Iterator[ApiError]:
    """What is wrong, in the order in which vLLM looks."""
    if request.logit_bias:
        wrong = [key for key in request.logit_bias if not _is_int(key)]
        if wrong:
            yield validation_error(
                f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong!r}",
                "logit_bias",
                wrong,
            )
    n = _count(request)
    if n < 1:
        yield validation_error(f"n must be at least 1, got {n}.")
    if n > MAX_N:
        yield validation_error(
            f"n must be at most {MAX_N}, got {n}. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment "
            "variable."
        )
    yield from _penalty_problems(request)
    yield from _distribution_problems(request)
    if max_tokens < 1:
        yield validation_error(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if request.min_tokens < 0:
        yield validation_error(f"min_tokens must be greater than or equal to 0, got {request.min_tokens}.")
    if request.min_tokens > max_tokens:
        yield validation_error(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {request.min_tokens}."
        )
    if any(not stop for stop in ([request.stop] if isinstance(request.stop, str) else request.stop or ())):
        yield validation_error("stop cannot contain an empty string.")
    if any(not word for word in request.bad_words):
        unique = list(dict.fromkeys(request.bad_words))
        yield validation_error(f"bad_words cannot contain an empty string. Got bad_words={unique}")
    if is_greedy(request) and n > 1:
        yield validation_error(f"n must be 1 when using greedy sampling, got {n}.")


def _penalty_problems(request: GenerationRequest) -> Iterator[ApiError]:
    for name in ("presence_penalty", "frequency_penalty"):
        penalty = getattr(request, name)
        if penalty is not None and not -2.0 <= penalty <= 2.0:
            yield validation_error(f"{name} must be in [-2, 2], got {penalty}.")
    repetition = request.repetition_penalty
    if repetition is not None:
        if not math.isfinite(repetition):
            yield validation_error(f"repetition_penalty must be a finite number, got {repetition}.")
        if repetition <= 0.0:
            yield validation_error(f"repetition_penalty must be greater than zero, got {repetition}.")


def _distribution_problems(request: GenerationRequest) -> Iterator[ApiError]:
    temperature, top_p, top_k, min_p = request.temperature, request.top_p, request.top_k, request.min_p
    if temperature is not None:
        # vLLM raises what lies between 0 and 0.01 to 0.01 first, which no answer shows.
        if not math.isfinite(temperature):
            reason = "must be a finite number"
        elif temperature < 0.0:
            reason = "must be non-negative"
        else:
            reason = "must be in [0, 2]" if temperature > 2.0 else ""
        if reason:
            yield validation_error(f"temperature {reason}, got {temperature}.", "temperature", temperature)
    if top_p is not None and not 0.0 < top_p <= 1.0:
        yield validation_error(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)
    if top_k is not None and top_k < -1:
        yield validation_error(f"top_k must be 0 (disable), or at least 1, got {top_k}.")
    if min_p is not None and not 0.0 <= min_p <= 1.0:
        yield validation_error(f"min_p must be in [0, 1], got {min_p}.")


def _is_int(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def late_problem(
    request: GenerationRequest,
    prompts: Sequence[Sequence[int]],
    *,
    vocab_size: int,
    max_logprobs: int,
    max_model_len: int,
    rank: int | None,
    ranks: int,
) -> ApiError | None:
    """What vLLM finds wrong only when the engine takes the request, if anything.

    By then a stream has begun, so there it is an error frame and not a status.
    """
    found = [
        *_logprob_problems(request, vocab_size, vocab_size if max_logprobs < 0 else max_logprobs),
        *_token_id_problems(request, vocab_size),
    ]
    if rank is not None and not 0 <= rank < ranks:
        found.append(validation_error(f"data_parallel_rank {rank} is out of range [0, {ranks})."))
    for token_ids in prompts:
        found.extend(_prompt_problems(request, token_ids, vocab_size, max_model_len))
    return found[0] if found else None


def _logprob_problems(request: GenerationRequest, vocab_size: int, most: int) -> Iterator[ApiError]:
    ids = request.logprob_token_ids or None
    if ids is not None:
        wanted = None
    elif isinstance(request, ChatCompletionRequest):
        wanted = request.top_logprobs if request.logprobs else None
    else:
        wanted = request.logprobs if isinstance(request, CompletionRequest) else None
    if wanted and (count := vocab_size if wanted == -1 else wanted) > most:
        yield validation_error(
            f"Requested sample logprobs of {count}, which is greater than max allowed: {most}",
            "logprobs",
            count,
        )
    if ids is not None:
        if len(ids) > MAX_LOGPROB_TOKEN_IDS:
            yield validation_error(
                f"Requested logprob_token_ids of length {len(ids)}, which is greater than max allowed: "
                f"{MAX_LOGPROB_TOKEN_IDS}",
                "logprob_token_ids",
                len(ids),
            )
        yield from _outside("logprob_token_ids", ids, vocab_size)
    wanted = request.prompt_logprobs
    if wanted and (count := vocab_size if wanted == -1 else wanted) > most:
        yield validation_error(
            f"Requested prompt logprobs of {count}, which is greater than max allowed: {most}",
            "prompt_logprobs",
            count,
        )


def _outside(name: str, ids: Sequence[int], vocab_size: int) -> Iterator[ApiError]:
    wrong = [token_id for token_id in ids if not 0 <= token_id < vocab_size]
    if wrong:
        yield validation_error(
            f"token_id(s) {wrong} in {name} contain out-of-vocab token ids. Vocabulary size: {vocab_size}", name, wrong
        )


def _token_id_problems(request: GenerationRequest, vocab_size: int) -> Iterator[ApiError]:
    yield from _outside("logit_bias", [int(key) for key in request.logit_bias or ()], vocab_size)
    yield from _outside("stop_token_ids", list(dict.fromkeys(request.stop_token_ids or ())), vocab_size)
    allowed = request.allowed_token_ids
    if allowed is not None:
        if not allowed:
            yield validation_error("allowed_token_ids is not None and empty!", "allowed_token_ids", allowed)
        wrong = [token_id for token_id in allowed if not 0 <= token_id < vocab_size]
        if wrong:
            yield validation_error("allowed_token_ids contains out-of-vocab token id!", "allowed_token_ids", wrong)


def _prompt_problems(
    request: GenerationRequest, token_ids: Sequence[int], vocab_size: int, max_model_len: int
) -> Iterator[ApiError]:
    if not token_ids:
        yield validation_error("The decoder prompt cannot be empty")
        return
    if len(token_ids) == max_model_len:
        yield validation_error(
            f"The decoder prompt (length {len(token_ids)}) plus the number of requested output tokens (at least 1) is "
            f"longer than the maximum model length of {max_model_len}. Make sure that `max_model_len` is no smaller "
            "than the number of text tokens (prompt + requested output tokens)."
        )
    if isinstance(request, CompletionRequest) and not isinstance(request.prompt, str):
        highest = max(token_ids)
        if highest >= vocab_size:
            yield validation_error(f"Token id {highest} is out of vocabulary")
    start = request.routed_experts_prompt_start
    if start > len(token_ids):
        yield validation_error(
            f"routed_experts_prompt_start must be between 0 and the prompt length ({len(token_ids)}), inclusive.",
            "routed_experts_prompt_start",
            start,
        )
