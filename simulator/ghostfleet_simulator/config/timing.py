"""The numbers of the backends that are given as times: per request, per step by coefficients, per step by a table."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import product
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from ghostfleet_simulator.config.base import Flag, Settings, Whole, problem
from ghostfleet_simulator.units import Duration, Factor


class LatencyCalculator(StrEnum):
    """How the time to the first token is made; llm-d-inference-sim's `latency-calculator`."""

    AUTO = "Auto"
    CONSTANT = "Constant"
    PER_TOKEN = "PerToken"  # noqa: S105 - a mode, not a password


_SPREAD: Final = "at most 30 % of the mean"


class SimpleTiming(Settings):
    """Latencies per request, under llm-d-inference-sim's names, exact to the microsecond.

    A time with a deviation is drawn from a normal distribution cut off at 70 % below and above its mean.
    """

    latency_calculator: Annotated[LatencyCalculator, Flag("latency-calculator")] = LatencyCalculator.AUTO
    """What makes the time to the first token: `Constant` takes `timeToFirstToken`, `PerToken` the prefill times, `Auto`
    the former where it is set and else the latter."""

    time_to_first_token: Annotated[Duration, Flag("time-to-first-token")] = Duration(0)
    """Time from admission to the first token."""

    time_to_first_token_std_dev: Annotated[Duration, Flag("time-to-first-token-std-dev")] = Duration(0)
    """Standard deviation of `timeToFirstToken`, at most 30 % of it."""

    inter_token_latency: Annotated[Duration, Flag("inter-token-latency")] = Duration(0)
    """Time between two tokens of one sequence."""

    inter_token_latency_std_dev: Annotated[Duration, Flag("inter-token-latency-std-dev")] = Duration(0)
    """Standard deviation of `interTokenLatency`, at most 30 % of it."""

    prefill_overhead: Annotated[Duration, Flag("prefill-overhead")] = Duration(0)
    """Constant part of a prefill, without regard to its length."""

    prefill_time_per_token: Annotated[Duration, Flag("prefill-time-per-token")] = Duration(0)
    """Time that each prompt token adds to a prefill."""

    prefill_time_std_dev: Annotated[Duration, Flag("prefill-time-std-dev")] = Duration(0)
    """Standard deviation of the prefill time."""

    kv_cache_transfer_latency: Annotated[Duration, Flag("kv-cache-transfer-latency")] = Duration(0)
    """Time to the first token of a request whose prompt was computed elsewhere (`do_remote_prefill` in its
    `kv_transfer_params`); the load has no part in it."""

    kv_cache_transfer_latency_std_dev: Annotated[Duration, Flag("kv-cache-transfer-latency-std-dev")] = Duration(0)
    """Standard deviation of `kvCacheTransferLatency`, at most 30 % of it."""

    kv_cache_transfer_time_per_token: Annotated[Duration, Flag("kv-cache-transfer-time-per-token")] = Duration(0)
    """In its place: time that each prompt token takes; `latencyCalculator` chooses as for the time to the first
    token."""

    kv_cache_transfer_time_std_dev: Annotated[Duration, Flag("kv-cache-transfer-time-std-dev")] = Duration(0)
    """Standard deviation of that time."""

    time_factor_under_load: Annotated[Factor, Flag("time-factor-under-load")] = Factor.parse(1)
    """Factor on the times when `maxNumSeqs` sequences run; 1 with one sequence and linear in between. At least 1."""

    tick: Duration = Duration(1_000_000)
    """Least time between two wake-ups; tokens wait for the next one together. Constant gaps between them stay exact."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        for mean, deviation, path in (
            (self.time_to_first_token, self.time_to_first_token_std_dev, "timeToFirstTokenStdDev"),
            (self.inter_token_latency, self.inter_token_latency_std_dev, "interTokenLatencyStdDev"),
            (
                self.kv_cache_transfer_latency,
                self.kv_cache_transfer_latency_std_dev,
                "kvCacheTransferLatencyStdDev",
            ),
        ):
            if deviation.ns * 10 > mean.ns * 3:
                raise problem(path, f"{deviation} is too large for a mean of {mean}: {_SPREAD}")
        if float(self.time_factor_under_load) < 1:
            raise problem("timeFactorUnderLoad", f"{self.time_factor_under_load} is below 1")
        if not 10_000 <= self.tick.ns <= 1_000_000_000:
            raise problem("tick", f"{self.tick} is not between 10us and 1s")
        return self


class StepTimeTiming(Settings):
    """Coefficients of the length of a step, in microseconds.

    step = (weightReadUs^softMax + (perTokenUs * tokens)^softMax)^(1/softMax) + perAttnWorkUs * attention work
    + perCtxTokenUs * context + perSeqUs * sequences + perPrefillReqUs * prompts + mixedStepUs if there are prompts
    + baseUs.
    """

    weight_read_us: Factor = Factor.parse(0)
    """Time to read the weights once; hidden behind the computation where that takes longer, see `softMax`."""

    per_token_us: Factor = Factor.parse(0)
    """Time to compute one row: a token of a prompt, or a sequence that decodes."""

    soft_max: Factor = Factor.parse(2)
    """How hard the greater of both wins, 1 to 64: 1 adds them, a large number takes the greater one."""

    base_us: Factor = Factor.parse(0)
    """Constant part of every step."""

    per_seq_us: Factor = Factor.parse(0)
    """Time that each sequence in the step adds."""

    per_ctx_token_us: Factor = Factor.parse(0)
    """Time to read the keys and values of one token, for each token of each sequence that decodes."""

    per_attn_work_us: Factor = Factor.parse(0)
    """Time of the attention of a prompt, per token of it and token before that."""

    per_prefill_req_us: Factor = Factor.parse(0)
    """Time that each prompt in the step adds."""

    mixed_step_us: Factor = Factor.parse(0)
    """Time that a step takes longer because there is any prompt in it."""

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        check_soft_max(self.soft_max)
        return self


def check_soft_max(value: Factor) -> None:
    """Raises a problem of the field `softMax` if it is not a sensible exponent."""
    if not 1 <= float(value) <= 64:
        raise problem("softMax", f"{value} is not from 1 to 64")


class Extrapolation(StrEnum):
    """What a table says beyond its points."""

    CLAMP = "Clamp"
    LINEAR = "Linear"


class PrefillPoint(Settings):
    """A measured step that computes a prompt and nothing else."""

    tokens: Annotated[Whole, Field(ge=1, le=10_485_760)]
    """Tokens computed."""

    context: Annotated[Whole, Field(ge=0, le=10_485_760)] = 0
    """Tokens before them, computed earlier or found in the prefix cache."""

    time: Duration
    """Length of the step."""


class DecodePoint(Settings):
    """A measured step in which sequences of the same length decode."""

    sequences: Annotated[Whole, Field(ge=1, le=65536)]
    """Sequences in the step."""

    context: Annotated[Whole, Field(ge=0, le=10_485_760)]
    """Tokens of each of them, prompt and answer so far."""

    time: Duration
    """Length of the step."""


class TableTiming(Settings):
    """Measured lengths of steps; between the points they are interpolated on both axes."""

    prefill: Annotated[tuple[PrefillPoint, ...], Field(min_length=1, max_length=256)]
    """Steps with a prompt: every `tokens` with every `context`, in any order."""

    decode: Annotated[tuple[DecodePoint, ...], Field(min_length=1, max_length=512)]
    """Steps without a prompt: every `sequences` with every `context`, in any order."""

    extrapolate: Extrapolation = Extrapolation.LINEAR
    """Beyond the points: `Linear` goes on as between the last two, `Clamp` stays at the last one."""

    @model_validator(mode="after")
    def _grids(self) -> Self:
        _check_grid("prefill", "tokens", [(point.tokens, point.context) for point in self.prefill])
        _check_grid("decode", "sequences", [(point.sequences, point.context) for point in self.decode])
        return self


def _check_grid(path: str, axis: str, points: list[tuple[int, int]]) -> None:
    def named(point: tuple[int, int]) -> str:
        return f"{axis}={point[0]}, context={point[1]}"

    def first(candidates: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
        return next(iter(candidates), None)

    if twice := first(point for point in points if points.count(point) > 1):
        raise problem(path, f"{named(twice)} is there twice")
    known = set(points)
    grid = product(sorted({a for a, _ in points}), sorted({b for _, b in points}))
    if missing := first(point for point in grid if point not in known):
        raise problem(path, f"no point for {named(missing)}: every {axis} needs every context")
