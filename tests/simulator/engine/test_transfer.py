"""Prefill/decode disaggregation in the engine: blocks held, blocks that come, their times, and what fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.engine.transfer import Happened, Incoming, Outgoing, Stage, Transfers

BLOCK = 16
STEPS = {"backend": "StepTime", "stepTime": {"baseUs": 1000}, "api": {"asyncSteps": 0}}
SIMPLE = {"simple": {"timeToFirstToken": "1s", "interTokenLatency": "1ms"}}
LEASE_US = 30_000_000
REASONS = frozenset({"length", "stop"})


def engine(blocks: int = 65, profile: dict[str, Any] | None = None, **transfer: Any) -> Engine:
    return Engine(
        ServerConfig.model_validate(
            {
                "model": {"name": "m", "maxModelLen": 256},
                "kvCache": {"blocks": blocks, "blockSize": BLOCK, "bytesPerToken": "1Ki"},
                "kvTransfer": {
                    "kvConnector": "NixlConnector",
                    "kvRole": "kv_both",
                    "bandwidth": "16Mi",
                    "latency": "1ms",
                    **transfer,
                },
                "profile": profile or STEPS,
            }
        )
    )


class Life:
    """An engine on a clock of its own; the other side answers at once unless a test says otherwise."""

    def __init__(self, made: Engine) -> None:
        self.engine = made
        self.now_us = 0
        self.wake: int | None = None
        self.happened = Happened()
        self.first: dict[str, int] = {}
        self.cached = self.elsewhere = self.pulled = self.queried = 0

    @property
    def transfers(self) -> Transfers:
        assert self.engine.transfers is not None
        return self.engine.transfers

    def send(self, name: str, tokens: int, answer: int = 1, **more: Any) -> Sequence:
        seq = Sequence(name, list(range(1000, 1000 + tokens)), Answer(answer), self.now_us, **more)
        self.engine.add(seq, self.now_us)
        self.advance()
        return seq

    def advance(self) -> None:
        step = self.engine.advance(self.now_us)
        self.wake = step.wake_us
        for seq in step.first:
            self.first[seq.id] = self.now_us
        self.cached += step.cached_tokens
        self.elsewhere += step.cached_elsewhere
        self.pulled += step.pulled_tokens
        self.queried += step.queried_tokens
        if step.happened is not None:
            for name in Happened.__slots__:
                getattr(self.happened, name).extend(getattr(step.happened, name))

    def run(self, until_us: int) -> None:
        """Up to a time; whatever has arrived is there, as the other side says."""
        while True:
            while self.happened.arrived:
                self.engine.pulled(self.happened.arrived.pop(0))
                self.advance()
            if self.wake is None or self.wake > until_us:
                break
            self.now_us = max(self.now_us, self.wake)
            self.advance()
        self.now_us = until_us

    def begin(self, seq: Sequence) -> None:
        """The other side has begun to send."""
        assert seq in self.happened.wanted
        assert seq.incoming is not None
        self.engine.begin_pull(seq, seq.incoming.blocks * BLOCK * 1024, self.now_us)
        self.advance()


def remote() -> dict[str, Any]:
    return {"incoming": Incoming("somewhere")}


# --- the side that prefills ------------------------------------------------------------------------


def test_blocks_are_held_after_the_answer_and_given_back_at_the_word_of_the_other_side() -> None:
    life = Life(engine())
    seq = life.send("a", 40, outgoing=Outgoing("a", LEASE_US, REASONS))
    life.run(10_000)
    assert seq.status is Status.FINISHED
    assert seq.outgoing is not None
    assert seq.outgoing.block_ids == [1, 2, 3]
    assert seq.outgoing.tokens == 40
    assert life.happened.held == ["a"]
    assert life.engine.kv_usage == 3 / 64
    life.engine.release("a", life.now_us)
    assert life.engine.kv_usage == 0
    again = life.send("b", 40)
    life.run(20_000)
    assert again.cached_tokens == 32  # what was held could be found all the time


def test_a_lease_that_nobody_prolongs_is_over() -> None:
    life = Life(engine())
    life.send("a", 40, outgoing=Outgoing("a", 2_000_000, REASONS))
    life.run(1_900_000)
    assert life.engine.kv_usage > 0
    life.transfers.renew(["a"], 3_500_000)
    life.run(3_400_000)
    assert life.engine.kv_usage > 0
    assert life.happened.expired == []
    life.run(3_600_000)
    assert life.engine.kv_usage == 0
    assert life.happened.expired == ["a"]


def test_nothing_is_held_of_an_answer_that_was_aborted_or_ended_otherwise() -> None:
    life = Life(engine())
    seq = life.send("a", 40, 5, outgoing=Outgoing("a", LEASE_US, REASONS))
    life.engine.abort(seq)
    life.send("b", 40, outgoing=Outgoing("b", LEASE_US, frozenset({"stop"})))
    life.run(50_000)
    assert life.engine.kv_usage == 0
    assert life.happened.held == []


def test_held_blocks_are_missed_by_others() -> None:
    life = Life(engine(blocks=17))
    life.send("a", 200, outgoing=Outgoing("a", LEASE_US, REASONS))
    life.run(10_000)
    waiting = life.send("b", 100, cache_salt="b")
    life.run(1_000_000)
    assert waiting.status is Status.WAITING
    life.engine.release("a", life.now_us)
    life.advance()
    life.run(1_100_000)
    assert waiting.status is Status.FINISHED


# --- the side that decodes -------------------------------------------------------------------------


def test_the_first_token_waits_for_the_transfer_and_for_one_step() -> None:
    life = Life(engine())
    seq = life.send("a", 4 * BLOCK, 3, **remote())
    assert (seq.status, life.engine.waiting, life.engine.deferred, life.engine.running) == (Status.LOADING, 1, 1, 0)
    assert life.engine.kv_usage == 4 / 64
    assert life.transfers.stages[Stage.IN_PROGRESS] == 1
    life.run(5_000)
    life.begin(seq)
    life.run(5_000_000)
    # 4 blocks of 16 KiB at 16 MiB/s, the latency, and the step that computes the last token of the prompt
    assert life.first["a"] == pytest.approx(5_000 + 4 * 1e6 / 1024 + 1_000 + 1_000, abs=2)
    assert seq.produced == 3
    assert (seq.cached_tokens, life.cached, life.elsewhere) == (64, 64, 64)
    assert (life.queried, life.pulled) == (64, 64)
    assert not any(life.transfers.stages.values())
    assert life.engine.kv_usage == 0


def test_what_the_prefix_cache_holds_is_not_fetched() -> None:
    life = Life(engine())
    life.send("a", 3 * BLOCK)
    life.run(10_000)
    seq = life.send("b", 5 * BLOCK, **remote())
    assert seq.incoming is not None
    assert seq.incoming.blocks == 2
    life.begin(seq)
    life.run(1_000_000)
    assert life.first["b"] == pytest.approx(10_000 + 2 * 1e6 / 1024 + 2_000, abs=2)
    assert life.elsewhere == 2 * BLOCK


def test_what_came_can_be_found_by_others() -> None:
    life = Life(engine())
    seq = life.send("a", 4 * BLOCK, **remote())
    life.begin(seq)
    life.run(1_000_000)
    other = life.send("b", 4 * BLOCK + 1)
    life.run(2_000_000)
    assert other.cached_tokens == 4 * BLOCK


def test_two_transfers_share_the_link() -> None:
    life = Life(engine())
    first, second = (life.send(name, 4 * BLOCK, incoming=Incoming("x"), cache_salt=name) for name in "ab")
    life.begin(first)
    life.begin(second)
    life.run(1_000_000)
    assert life.first["b"] == pytest.approx(8 * 1e6 / 1024 + 2_000, abs=1_002)


def test_under_the_simple_timer_the_first_token_comes_with_the_transfer() -> None:
    life = Life(engine(profile=SIMPLE))
    seq = life.send("a", 4 * BLOCK, **remote())
    life.begin(seq)
    life.run(900_000)
    assert life.first["a"] == pytest.approx(4 * 1e6 / 1024 + 1_000, abs=1_002)  # in whole ticks


@pytest.mark.parametrize("key", ["kvCacheTransferLatency", "kvCacheTransferTimePerToken"])
def test_its_own_times_of_a_transfer_come_before_the_link(key: str) -> None:
    simple = {"timeToFirstToken": "1s", key: "40ms" if key.endswith("Latency") else "1ms"}
    life = Life(engine(profile={"simple": simple}))
    seq = life.send("a", 4 * BLOCK, **remote())
    life.begin(seq)
    life.run(900_000)
    assert life.first["a"] == pytest.approx(40_000 if key.endswith("Latency") else 64_000, abs=1_002)


def test_a_prompt_that_does_not_come_is_computed_here() -> None:
    life = Life(engine())
    seq = life.send("a", 4 * BLOCK, **remote())
    life.run(7_000)
    life.engine.pull_failed(seq)
    life.advance()
    life.run(1_000_000)
    assert life.first["a"] == 8_000
    assert (seq.cached_tokens, life.cached) == (0, 0)
    assert life.queried == 128  # vLLM looks it up a second time, and counts it


def test_an_aborted_sequence_keeps_its_blocks_until_the_transfer_is_over() -> None:
    life = Life(engine())
    seq = life.send("a", 4 * BLOCK, **remote())
    life.begin(seq)
    life.engine.abort(seq)
    life.advance()
    assert life.engine.waiting == 0
    assert life.engine.kv_usage == 4 / 64
    life.run(1_000_000)
    assert life.engine.kv_usage == 0


def test_a_sequence_that_reads_no_cache_is_computed_here_and_the_other_side_is_told() -> None:
    life = Life(engine())
    seq = life.send("a", 4 * BLOCK, reads_prefix_cache=False, **remote())
    life.run(100_000)
    assert life.first["a"] == 1_000
    assert life.happened.refused == [seq]


def test_transfers_do_not_wait_for_a_slot_of_another_but_for_blocks() -> None:
    life = Life(engine(blocks=17))
    first = life.send("a", 200, incoming=Incoming("x"))
    second = life.send("b", 100, incoming=Incoming("x"), cache_salt="b")
    assert life.transfers.stages == {Stage.WAITING_TO_START: 1, Stage.IN_PROGRESS: 1, Stage.COMPLETED_WAITING: 0}
    life.begin(first)
    life.run(100_000)
    life.begin(second)
    life.run(200_000)
    assert {"a", "b"} == set(life.first)


def test_one_whose_blocks_are_there_waits_for_a_slot() -> None:
    made = engine()
    made._scheduler.max_num_seqs = 1
    life = Life(made)
    seq = life.send("a", 4 * BLOCK, **remote())
    running = life.send("b", 20, 100)
    assert running.status is Status.RUNNING
    life.begin(seq)
    life.run(50_000)
    assert life.transfers.stages[Stage.COMPLETED_WAITING] == 1
    life.run(200_000)
    assert "a" in life.first
    assert not any(life.transfers.stages.values())


# --- too little cached -----------------------------------------------------------------------------


def test_too_little_cached_ends_a_sequence_unserved() -> None:
    life = Life(engine())
    life.send("a", 4 * BLOCK)
    life.run(10_000)
    enough = life.send("b", 4 * BLOCK, min_cached_share=0.75)
    short = life.send("c", 4 * BLOCK, min_cached_share=0.76)
    assert (enough.status, enough.cached_tokens) == (Status.RUNNING, 48)
    life.run(20_000)
    assert (short.finish_reason, short.produced, short.status) == ("cache_threshold", 0, Status.FINISHED)
    assert life.engine.waiting == 0


def test_what_another_server_sends_is_cached() -> None:
    life = Life(engine())
    seq = life.send("a", 4 * BLOCK, min_cached_share=1, **remote())
    assert seq.status is Status.LOADING


# --- all of it -------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(1, 100),
            st.integers(1, 20),
            st.sampled_from(["plain", "in", "in", "out", "fails", "gone"]),
            st.integers(0, 20_000),
        ),
        max_size=14,
    ),
    st.sampled_from([STEPS, SIMPLE]),
)
def test_every_sequence_ends_and_every_block_comes_back(
    work: list[tuple[int, int, str, int]], profile: dict[str, Any]
) -> None:
    life = Life(engine(blocks=25, profile=profile))
    sequences = []
    for number, (prompt, answer, kind, pause_us) in enumerate(work):
        name = str(number)
        more: dict[str, Any] = {"out": {"outgoing": Outgoing(name, 50_000, REASONS)}, "plain": {}}.get(kind, remote())
        sequences.append((life.send(name, prompt, answer, **more), kind))
        life.run(life.now_us + pause_us)
    for _ in range(400):
        for seq in life.happened.wanted:
            kind = sequences[int(seq.id)][1]
            if kind == "in":
                assert seq.incoming is not None
                life.engine.begin_pull(seq, seq.incoming.blocks * 1000, life.now_us)
            else:
                if kind == "gone":
                    life.engine.abort(seq)
                life.engine.pull_failed(seq)
        life.happened.wanted.clear()
        life.advance()
        life.run(life.now_us + 100_000)
    assert all(seq.status is Status.FINISHED for seq, _ in sequences)
    assert all(seq.produced == seq.target for seq, kind in sequences if kind != "gone")
    assert life.engine.kv_usage == 0
    assert not any(life.transfers.stages.values())
    assert life.engine.reset_prefix_cache()
