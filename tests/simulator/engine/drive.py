"""Drives an engine through lives that hypothesis makes up, on a clock of its own, and checks its books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st

from ghostfleet_simulator.config import Profile, ServerConfig
from ghostfleet_simulator.engine.batches import BatchPacer
from ghostfleet_simulator.engine.blocks import BlockPool
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence, Status


@dataclass
class Answer:
    """An answer of a given length that ends by length."""

    length: int
    finish_reason: str = "length"
    stop_reason: int | str | None = None

    def token_ids(self, start: int, stop: int) -> list[int]:
        return list(range(start, stop))


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
simple = st.fixed_dictionaries(
    {
        "timeToFirstToken": st.sampled_from(["0", "10ms", "3500us"]),
        "interTokenLatency": st.sampled_from(["0", "1ms", "2500us", "20ms", "100us"]),
        "interTokenLatencyStdDev": st.sampled_from(["0", "10us"]),
        "timeFactorUnderLoad": st.sampled_from(["1", "2.5"]),
    }
).filter(lambda t: t["interTokenLatency"] != "0" or t["interTokenLatencyStdDev"] == "0")
noises = st.sampled_from(
    [
        {},
        {"step": {"sigma": "0.1"}, "stall": {"probability": "5%", "meanFraction": "0.3"}},
        {"request": {"mean": "2ms"}},
    ]
)
apis = st.fixed_dictionaries({"asyncSteps": st.integers(0, 1), "overhead": st.sampled_from(["0", "3ms"])})
step_time = st.fixed_dictionaries(
    {
        "weightReadUs": st.sampled_from([0, 2000]),
        "baseUs": st.sampled_from([0, 150, "1000.5"]),
        "perTokenUs": st.sampled_from([0, "22.5"]),
        "perSeqUs": st.sampled_from([0, 14]),
        "perCtxTokenUs": st.sampled_from(["0", "0.5"]),
        "mixedStepUs": st.sampled_from([0, 300]),
    }
)
roofline = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["Llama-3.1-8B", "Mixtral-8x7B"]),
        "gpu": st.sampled_from(["H100-SXM", "L40S"]),
        "tensorParallel": st.sampled_from([1, 4]),
    }
)
table = st.sampled_from(
    [
        {
            "prefill": [{"tokens": t, "time": f"{t * 100}us"} for t in (1, 32, 64)],
            "decode": [{"sequences": n, "context": c, "time": f"{n * 50 + c}us"} for n in (1, 8) for c in (1, 100)],
        }
    ]
)
profiles = st.one_of(
    simple.map(lambda numbers: {"simple": numbers}),
    *(
        st.builds(
            lambda numbers, noise, api, backend=backend, key=key: {
                "backend": backend,
                key: numbers,
                "noise": noise,
                "api": api,
            },
            numbers,
            noises,
            apis,
        )
        for backend, key, numbers in (
            ("StepTime", "stepTime", step_time),
            ("Roofline", "roofline", roofline),
            ("Table", "table", table),
        )
    ),
)
"""Profiles of every backend."""

configs = st.builds(
    lambda profile, blocks, block_size, seqs, budget: ServerConfig.model_validate(
        {
            "model": {"name": "m", "maxModelLen": 160},
            "kvCache": {"blocks": -(-160 // block_size) + 1 + blocks, "blockSize": block_size},
            "scheduling": {"maxNumSeqs": seqs, "maxNumBatchedTokens": budget},
            "profile": profile,
            "seed": 7,
        }
    ),
    profile=profiles,
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
    batches = engine._pacers[1]
    assert isinstance(batches, BatchPacer)
    assert batches._context == sum(seq.num_tokens for seq in batches._decoding)
    assert batches._idle <= batches._decoding.keys() <= scheduler.running.keys()
    assert len(scheduler.running) <= scheduler.max_num_seqs
    assert engine.waiting == sum(
        seq.status in (Status.WAITING, Status.PREEMPTED) for seq in sequences if seq.queued_us >= 0
    )


def run(
    config: ServerConfig,
    plan: list[Arrival],
    late_us: int = 0,
    switches: list[tuple[int, Profile]] | None = None,
    begin: Callable[[Engine], None] = lambda _engine: None,
) -> Run:
    """Drive an engine through `plan`, each call `late_us` after it was asked for, and change its profile at times."""
    engine, result, now_us = Engine(config), Run(), 0
    begin(engine)
    pending = sorted(plan, key=lambda a: a.at_us)
    aborts: list[tuple[int, Sequence]] = []
    changes = sorted(switches or [], key=lambda change: change[0])
    wake: int | None = None
    for _ in range(60_000):
        times = [pending[0].at_us] if pending else []
        times += [at for at, _ in changes[:1]]
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
        while changes and changes[0][0] <= now_us:
            engine.use(changes.pop(0)[1], now_us)
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
