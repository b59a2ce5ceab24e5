"""KV-cache tiers: what is offloaded, what comes back, when, and at what cost; as vLLM offloads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.cache_events import AllBlocksCleared, BlockRemoved, BlockStored, CacheEvent, Medium
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.problems import InvalidInput, validated

BLOCK = 16
KIB = 1 << 10
# One block has 16 KiB, so at 16 MiB/s it takes 1/1024 s; the latencies make the sums easy to tell apart.
CPU = {"medium": "CPU", "capacity": "1Mi", "readBandwidth": "16Mi", "writeBandwidth": "16Mi", "latency": "1ms"}
DISK = {"medium": "Disk", "capacity": "1Mi", "readBandwidth": "8Mi", "writeBandwidth": "8Mi", "latency": "10ms"}
PER_BLOCK_US = 1e6 / 1024
STEPS = {"backend": "StepTime", "stepTime": {"baseUs": 1000}, "api": {"asyncSteps": 0}}
SIMPLE = {"simple": {"timeToFirstToken": "1ms", "interTokenLatency": "1ms"}}


def engine(*tiers: dict[str, Any], blocks: int = 9, profile: dict[str, Any] | None = None, **scheduling: Any) -> Engine:
    return Engine(
        ServerConfig.model_validate(
            {
                "model": {"name": "m", "maxModelLen": 128},
                "kvCache": {"blocks": blocks, "blockSize": BLOCK, "bytesPerToken": KIB, "tiers": list(tiers)},
                "kvEvents": {"enableKvCacheEvents": True},
                "scheduling": scheduling,
                "profile": profile or STEPS,
            }
        )
    )


class Life:
    """An engine on a clock that follows its wishes."""

    def __init__(self, made: Engine) -> None:
        self.engine = made
        self.now_us = 0
        self.wake: int | None = None
        self.events: list[CacheEvent] = []
        self.steps: list[Any] = []

    def send(self, prompt: list[int], answer: int = 1) -> Sequence:
        seq = Sequence(str(self.now_us), prompt, Answer(answer), self.now_us)
        self.engine.add(seq, self.now_us)
        self.advance()
        return seq

    def advance(self) -> None:
        step = self.engine.advance(self.now_us)
        self.wake = step.wake_us
        self.events += step.cache_events
        self.steps.append(step)

    def rest(self) -> None:
        """Until nothing is due any more."""
        for _ in range(10_000):
            if self.wake is None:
                return
            self.now_us = max(self.now_us, self.wake)
            self.advance()
        pytest.fail("the engine never rests")

    def complete(self, prompt: list[int]) -> Sequence:
        seq = self.send(prompt)
        self.rest()
        return seq

    def told(self, medium: Medium) -> Counter[bytes]:
        """What a reader of the events believes a tier to hold."""
        held: Counter[bytes] = Counter()
        for entry in self.events:
            if isinstance(entry, AllBlocksCleared):
                held.clear()
            elif entry.medium is medium:
                (held.update if isinstance(entry, BlockStored) else held.subtract)(entry.block_hashes)
        return +held


def prompt(family: int, tokens: int = 4 * BLOCK + 1) -> list[int]:
    return [family] * tokens


@pytest.mark.parametrize(("profile", "grid_us"), [(STEPS, 2), (SIMPLE, 1000)])
def test_what_the_gpu_gave_up_comes_back_for_the_price_of_its_transfer(profile: dict[str, Any], grid_us: int) -> None:
    """Latency and bytes by bandwidth, then the rest of the prompt is computed; nothing is computed twice."""
    life = Life(engine(CPU, profile=profile))
    first = life.complete(prompt(1))
    life.complete(prompt(2))
    life.complete(prompt(3))
    again_at = life.now_us
    again = life.complete(prompt(1))
    assert (first.reused, again.reused, again.loaded, again.loaded_from_disk) == (0, 64, 64, 0)
    assert again.first_token_us - again_at == pytest.approx(1000 + 4 * PER_BLOCK_US + 1000, abs=grid_us)
    assert again.cached_tokens == 64


def test_from_disk_it_costs_both_transfers() -> None:
    """It comes to host memory first."""
    life = Life(engine(CPU | {"capacity": f"{5 * 16}Ki"}, DISK))
    for family in (1, 2, 3):
        life.complete(prompt(family))
    again_at = life.now_us
    again = life.complete(prompt(1))
    assert (again.loaded, again.loaded_from_disk) == (64, 64)
    disk_us, host_us = 10_000 + 4 * 2 * PER_BLOCK_US, 1000 + 4 * PER_BLOCK_US
    assert again.first_token_us - again_at == pytest.approx(disk_us + host_us + 1000, abs=2)


def test_while_it_loads_it_holds_blocks_and_no_slot_and_others_pass() -> None:
    """Usage rises, it counts as deferred, and a later request is served first."""
    life = Life(engine(CPU | {"latency": "50ms"}, blocks=12, maxNumSeqs=1))
    for family in (1, 2, 3):
        life.complete(prompt(family))
    loading = life.send(prompt(1))
    assert (loading.status, life.engine.waiting, life.engine.deferred, life.engine.running) == (Status.LOADING, 1, 1, 0)
    assert life.engine.kv_usage == pytest.approx(4 / 11)
    other = life.send([9] * 17)
    life.rest()
    assert other.first_token_us < loading.first_token_us
    assert life.engine.kv_usage == 0


def test_who_wants_what_is_on_its_way_waits_for_it() -> None:
    """The second of two finds on the GPU what the first one loads."""
    life = Life(engine(CPU, blocks=12))
    for family in (1, 2, 3):
        life.complete(prompt(family))
    first, second = life.send(prompt(1)), life.send(prompt(1))
    assert (first.status, second.status) == (Status.LOADING, Status.WAITING)
    assert life.engine.deferred == 2
    life.rest()
    assert (first.reused, second.reused, second.loaded) == (64, 64, 0)
    assert first.loaded > 0


def test_a_load_that_is_aborted_gives_its_blocks_back() -> None:
    """At once; what it fetched stays where it was."""
    life = Life(engine(CPU))
    for family in (1, 2, 3):
        life.complete(prompt(family))
    loading = life.send(prompt(1))
    life.engine.abort(loading)
    assert (life.engine.kv_usage, life.engine.deferred, life.engine.sequences) == (0, 0, [])
    life.rest()
    assert life.complete(prompt(1)).loaded == 64


def test_events_name_the_tier() -> None:
    """One per block that comes, without tokens; one for all that go; what is loaded is told of on the GPU again."""
    life = Life(engine(CPU | {"capacity": f"{5 * 16}Ki"}, DISK))
    for family in (1, 2, 3):
        life.complete(prompt(family))
    on_host = [e for e in life.events if not isinstance(e, AllBlocksCleared) and e.medium is Medium.CPU]
    stored = [e for e in on_host if isinstance(e, BlockStored)]
    assert all(len(e.block_hashes) == 1 and not e.token_ids and e.parent_block_hash is None for e in stored)
    assert len(stored) == 12
    assert [len(e.block_hashes) for e in on_host if isinstance(e, BlockRemoved)] == [3, 4]
    assert len(life.told(Medium.CPU)) == 5
    assert len(life.told(Medium.STORAGE)) == 12
    count = len(life.events)
    life.complete(prompt(1))
    again = [e for e in life.events[count:] if isinstance(e, BlockStored) and e.medium is Medium.GPU]
    assert [len(e.block_hashes) for e in again] == [4]


def test_without_room_nothing_is_offloaded_and_that_is_counted() -> None:
    """A prompt of more blocks than host memory has; requests do not suffer."""
    life = Life(engine(CPU | {"capacity": "32Ki"}))
    assert life.complete(prompt(1)).finish_reason == "length"
    assert sum(step.offload_failures for step in life.steps) == 1
    assert not life.told(Medium.CPU)


def test_a_preempted_sequence_loads_what_it_lost() -> None:
    """What other sequences took the place of is not computed again."""
    life = Life(engine(CPU, blocks=9, maxNumSeqs=2))
    sequences = [life.send([family] * 40, 64) for family in (1, 2)]
    life.rest()
    assert life.engine.preemptions > 0
    assert all(seq.produced == 64 for seq in sequences)
    assert any(seq.loaded for seq in sequences)


@pytest.mark.parametrize(
    ("tiers", "complaint"),
    [
        ([DISK], "kvCache.tiers: there is one CPU tier, and then perhaps one Disk tier"),
        ([CPU, CPU], "kvCache.tiers: there is one CPU tier"),
        ([CPU | {"capacity": "1Ki"}], "kvCache.tiers[0].capacity: 1Ki does not hold one block of 2097152 bytes"),
    ],
)
def test_what_cannot_be_is_refused(tiers: list[dict[str, Any]], complaint: str) -> None:
    """With the field."""
    with pytest.raises(InvalidInput) as caught:
        validated(ServerConfig, {"model": {"name": "m"}, "kvCache": {"tiers": tiers}})
    assert str(caught.value.problems[0]).startswith(complaint)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=st.lists(
        st.tuples(
            st.integers(0, 8000), st.integers(0, 3), st.integers(1, 100), st.integers(1, 24), st.integers(0, 30_000)
        ),
        min_size=1,
        max_size=20,
    ),
    host=st.integers(1, 24),
    disk=st.integers(0, 24),
    blocks=st.integers(9, 20),
    profile=st.sampled_from([STEPS, SIMPLE, STEPS | {"api": {"asyncSteps": 1}}]),
)
def test_every_sequence_ends_and_events_say_what_each_tier_holds(
    plan: list[tuple[int, int, int, int, int]], host: int, disk: int, blocks: int, profile: dict[str, Any]
) -> None:
    """Whatever arrives and is aborted: no block is lost, no tier holds more than it can, and a reader knows all."""
    tiers = [CPU | {"capacity": f"{host * 16}Ki"}]
    tiers += [DISK | {"capacity": f"{disk * 16}Ki"}] if disk else []
    life = Life(engine(*tiers, blocks=blocks, profile=profile))
    sequences, aborts = [], []
    for wait_us, family, tokens, answer, patience_us in plan:
        until = life.now_us + wait_us
        while life.wake is not None and life.wake <= until:
            life.now_us = max(life.now_us, life.wake)
            life.advance()
        life.now_us = until
        sequences.append(life.send([family] * tokens, min(answer, 128 - tokens)))
        if patience_us % 5 == 0:
            aborts.append(sequences[-1])
        if aborts and patience_us % 3 == 0:
            life.engine.abort(aborts.pop(0))
            life.advance()
    life.rest()
    made = life.engine
    assert all(seq.status is Status.FINISHED for seq in sequences)
    assert all(seq.produced == seq.target for seq in sequences if seq.finish_reason != "abort")
    assert (made.kv_usage, made.waiting, made.deferred) == (0, 0, 0)
    life.events += made._scheduler.events or []
    assert life.told(Medium.GPU) == Counter(made.cached_blocks)
    inside = made._scheduler.tiers
    assert inside is not None
    for tier in filter(None, (inside._host, inside._disk)):
        assert life.told(tier.medium) == Counter(list(tier._ready))
        assert len(tier._ready) <= tier.capacity
        assert not tier._writing
        assert not +tier._readers
    assert not inside._loading
