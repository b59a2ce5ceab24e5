"""Whatever arrives and whatever is aborted, the engine keeps its books: hypothesis drives it on a clock of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from tests.simulator.engine.drive import Arrival, arrivals, configs, run

from ghostfleet_simulator.config import Backend, Profile, ServerConfig
from ghostfleet_simulator.engine.sequence import Status

LONG = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


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


STEADY = ("5ms", 5000)


def steady(backend: str) -> Profile:
    """Profiles of every backend under which no token comes less than 5 ms after the one before it."""
    gap, gap_us = STEADY
    return Profile.model_validate(
        {
            "backend": backend,
            "simple": {"timeToFirstToken": gap, "interTokenLatency": gap, "tick": "10us"},
            "stepTime": {"baseUs": gap_us, "perTokenUs": 10},
            "roofline": {"model": "Llama-3.1-8B", "gpu": "H100-SXM"},
            "table": {
                "prefill": [{"tokens": 1, "time": gap}, {"tokens": 64, "time": "7ms"}],
                "decode": [{"sequences": 1, "context": 1, "time": gap}, {"sequences": 8, "context": 1, "time": "6ms"}],
            },
        }
    )


switching = st.lists(
    st.tuples(st.integers(0, 300_000), st.sampled_from(Backend).map(lambda backend: steady(backend.value))),
    min_size=1,
    max_size=6,
)


@LONG
@given(config=configs, plan=arrivals, switches=switching)
def test_a_change_of_the_backend_loses_nothing_and_gives_no_token_early(
    config: ServerConfig, plan: list[Arrival], switches: list[tuple[int, Profile]]
) -> None:
    """In every direction and at any moment: each sequence ends with exactly its tokens, none before it is due."""
    config = config.model_copy(update={"profile": switches[0][1]})
    result = run(config, plan, switches=switches[1:])
    times: dict[str, list[int]] = {}
    for at_us, name, count in result.tokens:
        times.setdefault(name, []).append(at_us)
        assert len(times[name]) == count
    for seq in result.sequences:
        assert seq.status is Status.FINISHED
        assert seq.finish_reason == "abort" or seq.produced == seq.target
        at = [seq.arrival_us, *times.get(seq.id, [])]
        assert all(later - earlier >= STEADY[1] for earlier, later in pairwise(at))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(config=configs, plan=arrivals, late_us=st.integers(1, 50_000))
def test_steps_follow_from_arrivals_alone_however_late_the_calls_are(
    config: ServerConfig, plan: list[Arrival], late_us: int
) -> None:
    """With the backends that pace by steps lateness delays a token and changes neither the order nor what follows."""
    assume(config.profile.backend is not Backend.SIMPLE)
    plan = [replace(arrival, abort_after_us=None) for arrival in plan]
    punctual, late = run(config, plan).tokens, run(config, plan, late_us).tokens
    assert [token[1:] for token in late] == [token[1:] for token in punctual]
    assert all(0 <= b[0] - a[0] <= late_us for a, b in zip(punctual, late, strict=True))
