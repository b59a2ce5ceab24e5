"""The `Simple` timer keeps llm-d-inference-sim's law, to the microsecond where that one cuts off milliseconds."""

from __future__ import annotations

from random import Random
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig, SimpleTiming
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.simple import SimpleTimer
from ghostfleet_simulator.engine.transfer import Incoming


def timer(max_num_seqs: int = 5, **timing: Any) -> SimpleTimer:
    return SimpleTimer(SimpleTiming.model_validate(timing), max_num_seqs, Random(1))


PER_TOKEN = {"prefillOverhead": "10ms", "prefillTimePerToken": "1500ns"}


@pytest.mark.parametrize(
    ("timing", "first_us"),
    [
        ({"timeToFirstToken": "1500us"}, 1_500),
        (PER_TOKEN, 10_300),
        ({"timeToFirstToken": "70ms", **PER_TOKEN}, 70_000),
        ({"timeToFirstToken": "70ms", **PER_TOKEN, "latencyCalculator": "PerToken"}, 10_300),
        ({**PER_TOKEN, "latencyCalculator": "Constant"}, 0),
        ({"timeToFirstToken": "70ms", "latencyCalculator": "PerToken"}, 0),
    ],
)
def test_what_makes_the_time_to_the_first_token(timing: dict[str, Any], first_us: int) -> None:
    """Of a prompt of 200 tokens, alone."""
    assert timer(**timing).first_token_us(200, 1) == first_us


@given(st.integers(1, 64), st.integers(1, 64), st.integers(10, 50))
def test_the_load_factor_is_linear_in_who_runs(running: int, slots: int, tenths: int) -> None:
    """1 alone, whole with every slot taken, none on a server with one slot; it scales times, not deviations."""
    running, factor = min(running, slots), tenths / 10
    loaded = timer(
        slots, timeFactorUnderLoad=str(factor), timeToFirstToken="100ms", interTokenLatency="20ms", **PER_TOKEN
    )
    load = 1 + (factor - 1) * (running - 1) / (slots - 1) if slots > 1 else 1
    assert loaded.first_token_us(200, running) == pytest.approx(100_000 * load, abs=0.51)
    assert loaded.gap_us(running) == pytest.approx(20_000 * load, abs=0.51)


def test_samples_have_the_mean_and_the_deviation_asked_for() -> None:
    """And lie within 70 % of the mean, at any scale: 30 % of 100 us is not nothing."""
    for mean_us in (100, 2_500, 60_000):
        spread = timer(interTokenLatency=f"{mean_us}us", interTokenLatencyStdDev=f"{mean_us * 3 // 10}us")
        samples = [spread.gap_us(1) for _ in range(20_000)]
        assert mean(samples) == pytest.approx(mean_us, rel=0.01)
        assert stdev(samples) == pytest.approx(0.3 * mean_us, rel=0.05)
        assert 0.3 * mean_us - 1 <= min(samples) < max(samples) <= 1.7 * mean_us + 1


def test_a_prefix_hit_shortens_the_prefill_and_not_a_constant_first_token() -> None:
    """Tokens that are in the prefix cache cost nothing per token; a constant time stays what it is."""

    def second(**timing: Any) -> int:
        tree = {"model": {"name": "m", "maxModelLen": 1024}, "profile": {"simple": {**timing, "tick": "10us"}}}
        engine = Engine(ServerConfig.model_validate(tree))
        times = []
        for at_us in (0, 1_000_000):
            seq = Sequence(str(at_us), list(range(400)), Answer(1), at_us)
            engine.add(seq, at_us)
            wake_us = engine.advance(at_us).wake_us
            assert wake_us is not None
            assert engine.advance(wake_us).tokens == [seq]
            times.append(wake_us - at_us)
        return times[1] - times[0]

    # 400 tokens are 25 blocks; the last one is computed again.
    assert second(prefillOverhead="10ms", prefillTimePerToken="100us") == -384 * 100
    assert second(timeToFirstToken="50ms") == 0


TRANSFER = {"kvCacheTransferTimePerToken": "1500ns", "timeToFirstToken": "1s", "timeFactorUnderLoad": "3"}


@pytest.mark.parametrize(
    ("timing", "transfer_us"),
    [
        ({"kvCacheTransferLatency": "2500us"}, 2_500),
        (TRANSFER, 300),
        ({"kvCacheTransferLatency": "70ms", **TRANSFER}, 70_000),
        ({"kvCacheTransferLatency": "70ms", **TRANSFER, "latencyCalculator": "PerToken"}, 300),
        ({**TRANSFER, "latencyCalculator": "Constant"}, 0),
    ],
)
def test_what_makes_the_time_of_a_transfer(timing: dict[str, Any], transfer_us: int) -> None:
    """Of 200 tokens; neither load nor the time to the first token has a part in it."""
    assert timer(**timing).transfer_us(200) == transfer_us


def test_the_times_of_transfers_spread_as_asked_for() -> None:
    """Cut off at 70 % of the mean, however wide the deviation per token is."""
    for timing, mean_us in (
        ({"kvCacheTransferLatency": "10ms", "kvCacheTransferLatencyStdDev": "3ms"}, 10_000),
        ({"kvCacheTransferTimePerToken": "50us", "kvCacheTransferTimeStdDev": "3ms"}, 10_000),
    ):
        spread = timer(**timing)
        samples = [spread.transfer_us(200) for _ in range(20_000)]
        assert mean(samples) == pytest.approx(mean_us, rel=0.01)
        assert stdev(samples) == pytest.approx(3_000, rel=0.05)
        assert 0.3 * mean_us - 1 <= min(samples) < max(samples) <= 1.7 * mean_us + 1


def test_a_deviation_of_the_transfer_is_at_most_30_percent() -> None:
    with pytest.raises(ValueError, match="too large for a mean of"):
        timer(kvCacheTransferLatency="10ms", kvCacheTransferLatencyStdDev="4ms")


def test_only_a_request_whose_prompt_was_computed_elsewhere_waits_for_a_transfer() -> None:
    """And pays for its prompt itself where it was preempted since."""
    numbers = {"timeToFirstToken": "50ms", "kvCacheTransferLatency": "7ms", "interTokenLatency": "1ms", "tick": "10us"}
    tree = {"model": {"name": "m", "maxModelLen": 1024}, "profile": {"simple": numbers}}
    engine = Engine(ServerConfig.model_validate(tree))
    here, there = (Sequence(str(way), [1] * 30, Answer(5), 0, incoming=way) for way in (None, Incoming()))
    for seq in (here, there):
        engine.add(seq, 0)
    assert engine.advance(0).wake_us == 7_000
    assert engine.advance(7_000).tokens == [there]
    engine.reset_prefix_cache(reset_running_requests=True)
    engine.advance(8_000)
    assert there.due_us == 8_000 + 50_000
