"""Whatever arrives and whatever is aborted, the engine keeps its books: hypothesis drives it on a clock of its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.blocks import BlockPool
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence, Status


@dataclass
class Answer:
    """An answer of a given length that ends by length."""

    length: int
    finish_reason: str = "length"
    stop_reason: int | str | None = None

    def token(self, index: int) -> int:
        return index


@dataclass(frozen=True)
class Arrival:
    """A request, and when its client goes away again, if it does."""

    at_us: int
    prompt: int
    answer: int
    abort_after_us: int | None


@dataclass
class Run:
    """What came out: (time, sequence, tokens so far) per token, and the engine's books after every step."""

    tokens: list[tuple[int, str, int]] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    preemptions: int = 0
    most_running: int = 0
    most_tokens: int = 0


arrivals = st.lists(
    st.builds(
        Arrival,
        at_us=st.integers(0, 200_000),
        prompt=st.integers(1, 96),
        answer=st.integers(1, 64),
        abort_after_us=st.one_of(st.none(), st.none(), st.integers(0, 300_000)),
    ),
    min_size=1,
    max_size=14,
)
timings = st.fixed_dictionaries(
    {
        "timeToFirstToken": st.sampled_from(["0", "10ms", "3500us"]),
        "interTokenLatency": st.sampled_from(["0", "1ms", "2500us", "20ms", "100us"]),
        "interTokenLatencyStdDev": st.sampled_from(["0", "10us"]),
        "timeFactorUnderLoad": st.sampled_from(["1", "2.5"]),
    }
).filter(lambda t: t["interTokenLatency"] != "0" or t["interTokenLatencyStdDev"] == "0")
configs = st.builds(
    lambda timing, blocks, block_size, seqs, budget: ServerConfig.model_validate(
        {
            "model": {"name": "m", "maxModelLen": 160},
            "kvCache": {"blocks": -(-160 // block_size) + 1 + blocks, "blockSize": block_size},
            "scheduling": {"maxNumSeqs": seqs, "maxNumBatchedTokens": budget},
            "profile": {"simple": timing},
            "seed": 7,
        }
    ),
    timing=timings,
    blocks=st.integers(0, 24),
    block_size=st.sampled_from([1, 4, 16]),
    seqs=st.integers(1, 8),
    budget=st.integers(1, 64),
)


def free_blocks(pool: BlockPool) -> list[int]:
    """In the order in which they will be reused."""
    return [*reversed(pool._front), *range(pool._fresh, pool.usable + 1), *pool._behind]


def check_books(engine: Engine, sequences: list[Sequence]) -> None:
    """Every block is free or owned, as often as it says, and a sequence owns enough for what it has computed."""
    scheduler = engine._scheduler
    owners = Counter(block for seq in sequences for block in seq.blocks)
    assert sorted([*owners, *free_blocks(scheduler.pool)]) == list(range(1, scheduler.pool.usable + 1))
    assert scheduler.pool._more_owners == {block: number - 1 for block, number in owners.items() if number > 1}
    for seq in sequences:
        if seq.status is Status.RUNNING:
            assert seq in scheduler.running
            in_blocks = seq.computed if seq in scheduler.prefilling else seq.num_tokens - (seq.produced > 0)
            assert len(seq.blocks) * scheduler.block_size >= in_blocks
        else:
            assert seq not in scheduler.running
            assert not seq.blocks
    assert len(scheduler.running) <= scheduler.max_num_seqs
    assert engine.waiting == sum(
        seq.status in (Status.WAITING, Status.PREEMPTED) for seq in sequences if seq.queued_us >= 0
    )


def run(config: ServerConfig, plan: list[Arrival], late_us: int = 0) -> Run:
    """Drive an engine through `plan`, each call `late_us` after it was asked for."""
    engine, result, now_us = Engine(config), Run(), 0
    pending = sorted(plan, key=lambda a: a.at_us)
    aborts: list[tuple[int, Sequence]] = []
    wake: int | None = None
    for _ in range(60_000):
        times = [pending[0].at_us] if pending else []
        times += [at for at, _ in aborts] + ([wake + late_us] if wake is not None else [])
        if not times:
            break
        now_us = max(now_us, min(times))
        while pending and pending[0].at_us <= now_us:
            arrival = pending.pop(0)
            seq = Sequence(str(len(result.sequences)), [0] * arrival.prompt, Answer(arrival.answer), now_us)
            result.sequences.append(seq)
            engine.add(seq, now_us)
            if arrival.abort_after_us is not None:
                aborts.append((now_us + arrival.abort_after_us, seq))
        for entry in [a for a in aborts if a[0] <= now_us]:
            aborts.remove(entry)
            engine.abort(entry[1])
        step = engine.advance(now_us)
        assert len(set(map(id, step.tokens))) == len(step.tokens), "a sequence got two tokens in one step"
        assert len(step.tokens) <= config.scheduling.max_num_batched_tokens
        result.tokens += [(now_us, seq.id, seq.produced) for seq in step.tokens]
        result.most_running = max(result.most_running, engine.running)
        check_books(engine, result.sequences)
        wake = step.wake_us
    else:
        pytest.fail("the engine does not come to an end")
    result.preemptions = engine.preemptions
    return result


LONG = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@LONG
@given(config=configs, plan=arrivals)
def test_every_sequence_ends_with_exactly_its_tokens_and_all_blocks_come_back(
    config: ServerConfig, plan: list[Arrival]
) -> None:
    """No sequence starves, none gets a token too many or too few, and the pool is whole at the end."""
    result = run(config, plan)
    event(f"preempted: {result.preemptions > 0}")
    for seq in result.sequences:
        tokens = [count for _, name, count in result.tokens if name == seq.id]
        assert seq.status is Status.FINISHED
        if seq.finish_reason == "abort":
            assert tokens == list(range(1, len(tokens) + 1))
            assert len(tokens) < seq.target
        else:
            assert seq.finish_reason == "length"
            assert tokens == list(range(1, seq.target + 1))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(config=configs, plan=arrivals)
def test_the_same_seed_gives_the_same_run(config: ServerConfig, plan: list[Arrival]) -> None:
    """On a virtual clock a run is reproducible bit for bit."""
    assert run(config, plan).tokens == run(config, plan).tokens


@settings(max_examples=200, deadline=None, derandomize=True)
@given(config=configs, plan=arrivals, late_us=st.integers(1, 50_000))
def test_late_calls_lose_nothing(config: ServerConfig, plan: list[Arrival], late_us: int) -> None:
    """A loop that is always late still gives every sequence its tokens."""
    for seq in run(config, plan, late_us).sequences:
        assert seq.status is Status.FINISHED
        assert seq.finish_reason == "abort" or seq.produced == seq.target
