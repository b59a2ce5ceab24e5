"""However short of blocks the cache is, every sequence comes to its end, under every policy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.simulator.engine.drive import Arrival, run

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.sequence import Status


def scarce(
    policy: str, *, reserve: bool, cached: bool, budget: int, threshold: int, spare: int, backend: str = "Simple"
) -> ServerConfig:
    """Four tokens to a block, and hardly more blocks than the longest sequence needs."""
    return ServerConfig.model_validate(
        {
            "model": {"name": "m", "maxModelLen": 64},
            "kvCache": {"blocks": 17 + spare, "blockSize": 4, "enablePrefixCaching": cached},
            "scheduling": {
                "policy": policy,
                "reserveFullIsl": reserve,
                "maxNumSeqs": 8,
                "maxNumBatchedTokens": budget,
                "longPrefillTokenThreshold": threshold,
            },
            "profile": {"backend": backend, "simple": {"interTokenLatency": "1ms"}, "stepTime": {"baseUs": 1000}},
        }
    )


configs = st.builds(
    scarce,
    st.sampled_from(["FCFS", "Priority"]),
    reserve=st.booleans(),
    cached=st.booleans(),
    budget=st.integers(8, 64),
    threshold=st.sampled_from([0, 4, 8]),
    spare=st.integers(0, 6),
    backend=st.sampled_from(["Simple", "StepTime"]),
)
# Most of them at one moment, for what starves is one of several equals.
plans = st.lists(
    st.builds(
        Arrival,
        at_us=st.sampled_from([0, 0, 0, 2_000]),
        prompt=st.integers(1, 60),
        answer=st.integers(1, 4),
        abort_after_us=st.none(),
    ),
    min_size=2,
    max_size=8,
)
TIES = [Arrival(0, 60, 4, None)] * 2


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(config=configs, plan=plans)
@example(config=scarce("Priority", reserve=False, cached=False, budget=16, threshold=8, spare=0), plan=TIES)
def test_no_sequence_starves(config: ServerConfig, plan: list[Arrival]) -> None:
    """Also where two that came at one moment with the same priority want the same blocks, and none are reserved."""
    for seq in run(config, plan).sequences:
        assert seq.status is Status.FINISHED
        assert seq.produced == seq.target


@pytest.mark.parametrize("policy", ["FCFS", "Priority"])
def test_of_equals_the_one_that_was_admitted_first_ends_first(policy: str) -> None:
    """They do preempt each other, but not in turns."""
    result = run(scarce(policy, reserve=False, cached=False, budget=16, threshold=8, spare=0), TIES)
    ends: dict[str, Any] = {name: at_us for at_us, name, _ in result.tokens}
    assert result.preemptions > 0
    assert ends["0"] < ends["1"]
