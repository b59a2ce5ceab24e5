"""Who replays all events from the first one knows exactly what the engine has in its prefix cache."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.simulator.engine.drive import Answer, Arrival, arrivals, configs, run

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.adapters import Adapter
from ghostfleet_simulator.engine.cache_events import AllBlocksCleared, BlockRemoved, BlockStored, CacheEvent
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step


class Replica:
    """Blocks by hash, known from events alone."""

    def __init__(self) -> None:
        self.blocks: Counter[bytes] = Counter()
        self.seen: Counter[type] = Counter()

    def apply(self, events: list[CacheEvent]) -> None:
        for entry in events:
            self.seen[type(entry)] += 1
            match entry:
                case BlockStored():
                    parent = entry.parent_block_hash
                    assert parent is None or parent in self.blocks, "a block is told of before the one it follows"
                    assert len(entry.token_ids) == len(entry.block_hashes) * entry.block_size
                    self.blocks.update(entry.block_hashes)
                case BlockRemoved():
                    for block_hash in entry.block_hashes:
                        assert self.blocks[block_hash] > 0, "a block goes that never came"
                        self.blocks[block_hash] -= 1
                        self.blocks += Counter()
                case AllBlocksCleared():
                    self.blocks.clear()


class Watched:
    """Looks at an engine after every step, and resets its prefix cache before some of them."""

    def __init__(self, resets: list[tuple[int, bool]]) -> None:
        self.resets = dict(resets)
        self.published = Replica()
        self.steps = 0

    def watch(self, engine: Engine) -> None:
        plain, scheduler = engine.advance, engine._scheduler

        def advance(now_us: int) -> Step:
            self.steps += 1
            if self.steps in self.resets:
                engine.reset_prefix_cache(reset_running_requests=self.resets[self.steps])
            step = plain(now_us)
            self.published.apply(list(step.cache_events))
            held_back = Replica()
            held_back.blocks = self.published.blocks.copy()
            held_back.apply(scheduler.events or [])
            assert held_back.blocks == Counter(engine.cached_blocks)
            return step

        setattr(engine, "advance", advance)  # noqa: B010 - a method cannot be assigned in the sight of mypy
        self.engine = engine


def publishing(config: ServerConfig) -> ServerConfig:
    return ServerConfig.model_validate(
        config.model_dump(mode="json", by_alias=True) | {"kvEvents": {"enableKvCacheEvents": True}}
    )


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    config=configs,
    plan=arrivals,
    resets=st.lists(st.tuples(st.integers(1, 120), st.booleans()), max_size=4),
)
def test_replaying_all_events_rebuilds_the_prefix_cache(
    config: ServerConfig, plan: list[Arrival], resets: list[tuple[int, bool]]
) -> None:
    """Through evictions, preemptions, aborts and resets, after every step, copies of a block counted."""
    watched = Watched(resets)
    result = run(publishing(config), plan, begin=watched.watch)
    event(f"preempted: {result.preemptions > 0}")
    for kind in (BlockRemoved, AllBlocksCleared):
        event(f"{kind.__name__}: {watched.published.seen[kind] > 0}")
    # What a reset in the last pass left to tell waits for a step that never comes.
    left = watched.engine._scheduler.events or []
    assert all(isinstance(entry, AllBlocksCleared) for entry in left) or max(watched.resets, default=0) >= watched.steps


def driven(**blocks: Any) -> Engine:
    return Engine(
        ServerConfig.model_validate(
            {"model": {"name": "m", "maxModelLen": 64}, "kvEvents": {"enableKvCacheEvents": True}, **blocks}
        )
    )


STEPS = {"backend": "StepTime", "stepTime": {"baseUs": 1000}}


def test_a_step_tells_behind_its_tokens() -> None:
    """Nothing is told when a prompt is scheduled on an idle engine; its blocks are with the end of its step."""
    engine = driven(profile=STEPS)
    engine.add(Sequence("a", list(range(40)), Answer(3), 0), 0)
    first = engine.advance(0)
    assert (first.wake_us, first.cache_events) == (1000, ())
    second = engine.advance(1000)
    assert [type(entry) for entry in second.cache_events] == [BlockStored]
    assert second.tokens


def test_with_asynchronous_scheduling_a_step_tells_of_the_prompts_of_the_next_one() -> None:
    """They are scheduled while it runs (contract: late corrections); without it they come with their own step."""
    spoken = {}
    for lag in (1, 0):
        engine = driven(profile=STEPS | {"api": {"asyncSteps": lag}})
        engine.add(Sequence("a", list(range(32)), Answer(9), 0), 0)
        engine.advance(0)
        engine.advance(1000)
        second = Sequence("b", [7] * 32, Answer(9), 1500)
        engine.add(second, 1500)
        assert not engine.advance(2000).cache_events
        assert engine.advance(3000).cache_events
        spoken[lag] = second.produced
    assert spoken == {1: 0, 0: 1}


def test_an_eviction_is_told_before_what_takes_its_place() -> None:
    """One event per block that goes, then one for all blocks that come."""
    engine = driven(kvCache={"blocks": 6, "blockSize": 16}, profile=STEPS)
    engine.add(Sequence("a", list(range(64)), Answer(1), 0), 0)
    engine.advance(0)
    first = engine.advance(1000)
    engine.add(Sequence("b", [9] * 64, Answer(1), 2000), 2000)
    engine.advance(2000)
    second = engine.advance(3000)
    assert [type(entry) for entry in first.cache_events] == [BlockStored]
    removed, stored = second.cache_events[:-1], second.cache_events[-1]
    assert len(removed) == 3
    assert all(isinstance(entry, BlockRemoved) and len(entry.block_hashes) == 1 for entry in removed)
    assert isinstance(stored, BlockStored)
    assert len(stored.block_hashes) == 4


def test_a_reset_is_told_with_the_next_step() -> None:
    """Not by itself: vLLM publishes when a step's output is processed."""
    engine = driven(profile=STEPS)
    engine.add(Sequence("a", list(range(32)), Answer(1), 0), 0)
    engine.advance(0)
    engine.advance(1000)
    assert engine.reset_prefix_cache()
    assert engine.advance(1000).cache_events == ()
    engine.add(Sequence("b", list(range(32)), Answer(1), 2000), 2000)
    engine.advance(2000)
    assert [type(entry) for entry in engine.advance(3000).cache_events] == [AllBlocksCleared, BlockStored]


def test_an_abort_that_leaves_nothing_to_do_is_followed_by_what_was_held_back() -> None:
    """vLLM runs an empty step then."""
    engine = driven(profile=STEPS)
    seq = Sequence("a", list(range(32)), Answer(9), 0)
    engine.add(seq, 0)
    engine.advance(0)
    engine.abort(seq)
    assert [type(entry) for entry in engine.advance(10).cache_events] == [BlockStored]


def test_hits_are_told_of_only_at_a_requests_wish() -> None:
    """vLLM's `kv_cache_report_mode` `full`: one event for what was found, without a parent."""
    engine = driven(profile=STEPS)
    told = []
    for number, wishes in enumerate((False, False, True)):
        now_us = number * 10_000
        engine.add(Sequence(str(number), list(range(40)), Answer(1), now_us, reports_hits=wishes), now_us)
        engine.advance(now_us)
        told.append(engine.advance(now_us + 1000).cache_events)
    assert [len(events) for events in told] == [1, 0, 1]
    assert told[2] == told[0]


def test_the_salt_is_shown_as_it_is() -> None:
    """In the hash it is tagged since 0.31; in events it never is, and only the first block has it."""
    engine = driven(profile=STEPS)
    engine.add(Sequence("a", list(range(32)), Answer(1), 0, cache_salt="pepper"), 0)
    engine.advance(0)
    (stored,) = engine.advance(1000).cache_events
    assert isinstance(stored, BlockStored)
    assert stored.extra_keys == [("pepper",), None]


def test_the_adapter_is_named_with_every_block() -> None:
    """By its name and number beside the blocks, and by its name among the extra keys of each, a salt behind it."""
    engine = driven(profile=STEPS, lora={"enabled": True})
    sql = Adapter(3, "sql", "/adapters/sql", 8)
    engine.add(Sequence("a", list(range(32)), Answer(1), 0, cache_salt="pepper", lora=sql), 0)
    engine.advance(0)
    (stored,) = engine.advance(1000).cache_events
    assert isinstance(stored, BlockStored)
    assert (stored.lora_id, stored.lora_name) == (3, "sql")
    assert stored.extra_keys == [("sql", "pepper"), ("sql",)]


def test_without_a_prefix_cache_there_are_no_events() -> None:
    """There is nothing to be found."""
    engine = driven(profile=STEPS, kvCache={"enablePrefixCaching": False})
    engine.add(Sequence("a", list(range(32)), Answer(1), 0), 0)
    engine.advance(0)
    assert engine.advance(1000).cache_events == ()
