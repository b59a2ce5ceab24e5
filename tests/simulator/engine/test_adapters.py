"""Where adapters lie, what bringing them into a slot costs, and whom it holds up."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulator.engine.drive import Answer
from tests.simulator.engine.test_batches import config as stepped
from tests.simulator.engine.test_batches import play

from ghostfleet_simulator.config import Lora, ServerConfig
from ghostfleet_simulator.engine.adapters import Adapter, Adapters, Load, Place
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence

A, B, C = (Adapter(number, name, name, 8) for number, name in enumerate("abc", 1))
COSTS = {"diskRead": "100ms", "diskReadPerRank": "1ms", "slotCopy": "4ms", "slotCopyPerRank": "500us"}
FROM_HOST, FROM_DISK = 8_000, 116_000
"""Microseconds, at rank 8."""


def memory(max_loras: int, max_cpu_loras: int | None = None) -> Adapters:
    made = Adapters()
    made.use(Lora(enabled=True, max_loras=max_loras, max_cpu_loras=max_cpu_loras))
    return made


def lora(**settings: Any) -> dict[str, Any]:
    return {"enabled": True, **settings}


def sequence(name: str, adapter: Adapter | None, answer: int = 3, at_us: int = 0) -> Sequence:
    return Sequence(name, [sum(name.encode()), *range(9)], Answer(answer), at_us, lora=adapter)


def steps(costs: dict[str, Any], settings: dict[str, Any]) -> Engine:
    """An engine whose steps take 10 ms, half of which is reading the weights."""
    base = stepped({"baseUs": 5_000, "weightReadUs": 5_000})
    profile = {**base.profile.model_dump(by_alias=True, mode="json", exclude_none=True), "lora": costs}
    return Engine(ServerConfig.model_validate({"model": {"name": "m"}, "profile": profile, "lora": settings}))


def paced(costs: dict[str, Any], settings: dict[str, Any]) -> Engine:
    """An engine in which every request takes 50 ms to its first token and 10 ms to each further one."""
    profile = {"simple": {"timeToFirstToken": "50ms", "interTokenLatency": "10ms"}, "lora": costs}
    return Engine(ServerConfig.model_validate({"model": {"name": "m"}, "profile": profile, "lora": settings}))


# --- places ------------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_gives_way() -> None:
    """First its slot, and where host memory is full that, too: then it comes from disk again."""
    it = memory(1, 2)
    assert it.load(A) == Load(A, Place.DISK)
    assert it.load(A) is None
    assert it.load(B) == Load(B, Place.DISK)
    assert (it.place(A), it.place(B)) == (Place.HOST, Place.SLOT)
    assert it.load(A) == Load(A, Place.HOST)
    assert it.load(C) == Load(C, Place.DISK)
    assert [it.place(adapter) for adapter in (A, B, C)] == [Place.HOST, Place.DISK, Place.SLOT]


def test_what_is_loaded_anew_comes_from_disk() -> None:
    """Its weights were replaced, so neither the copy in host memory nor the one in the slot is good any more."""
    it = memory(2)
    it.load(A)
    assert it.load(A, anew=True) == Load(A, Place.DISK)


def test_fewer_places_are_emptied_at_once() -> None:
    """The ones used last stay."""
    it = memory(2, 3)
    for adapter in (A, B, C):
        it.load(adapter)
    it.use(Lora(enabled=True, max_loras=1, max_cpu_loras=2))
    assert [it.place(adapter) for adapter in (A, B, C)] == [Place.DISK, Place.HOST, Place.SLOT]


ADAPTERS = [Adapter(number, str(number), str(number), 8) for number in range(1, 6)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    max_loras=st.integers(1, 3),
    more=st.integers(0, 2),
    deeds=st.lists(
        st.tuples(st.sampled_from(["enter", "leave", "load", "step"]), st.sampled_from(ADAPTERS)), max_size=60
    ),
)
def test_places_are_those_of_two_lists_in_the_order_of_use(
    max_loras: int, more: int, deeds: list[tuple[str, Adapter]]
) -> None:
    """vLLM goes over all adapters that run in every step; it makes no difference that only changes are looked at."""
    it = memory(max_loras, max_loras + more)
    running: dict[Adapter, int] = {}
    host: list[int] = []
    slots: list[int] = []

    def used(adapter: Adapter) -> Place:
        place = Place.SLOT if adapter.id in slots else Place.HOST if adapter.id in host else Place.DISK
        if place is Place.DISK and len(host) == max_loras + more:
            gone = host.pop(0)
            if gone in slots:
                slots.remove(gone)
        if place is not Place.SLOT and len(slots) == max_loras:
            slots.pop(0)
        for places in (host, slots):
            if adapter.id in places:
                places.remove(adapter.id)
            places.append(adapter.id)
        return place

    for deed, adapter in deeds:
        if deed == "enter" and it.has_room_for(adapter):
            it.enter(adapter)
            running[adapter] = running.get(adapter, 0) + 1
        elif deed == "leave" and adapter in running:
            running[adapter] -= 1
            if not running[adapter]:
                del running[adapter]
            assert it.leave(adapter) == (adapter not in running)
        elif deed == "load":
            place = used(adapter)
            assert it.load(adapter) == (None if place is Place.SLOT else Load(adapter, place))
        if deed != "load":  # a step follows
            expected = [Load(one, place) for one in running if (place := used(one)) is not Place.SLOT]
            assert it.settle() == expected
        assert len(it.running) <= max_loras
        for one in ADAPTERS:
            assert it.place(one) is (Place.SLOT if one.id in slots else Place.HOST if one.id in host else Place.DISK)


# --- steps -------------------------------------------------------------------------------------------


def test_everybody_in_a_step_waits_for_what_is_loaded_for_it() -> None:
    """The worker loads before it computes, so the base model's sequence is held up as well; the next step is not."""
    times = play(steps(COSTS, lora()), [(0, sequence("base", None)), (0, sequence("a", A))])
    first = FROM_DISK + 10_000
    assert times == {"base": [first, first + 10_000, first + 20_000], "a": [first, first + 10_000, first + 20_000]}


def test_an_adapter_that_is_there_costs_nothing() -> None:
    """Its second sequence finds it in its slot; after another one had the slot it is copied from host memory."""
    engine = steps(COSTS, lora(maxLoras=1, maxCpuLoras=2))
    engine.place_adapter(B)
    engine.place_adapter(A)
    arriving = [(0, sequence("a", A, 1)), (50_000, sequence("b", B, 1)), (100_000, sequence("a2", A, 1))]
    times = play(engine, arriving)
    assert times == {"a": [10_000], "b": [60_000 + FROM_HOST], "a2": [110_000 + FROM_HOST]}


def test_each_adapter_makes_steps_longer() -> None:
    """Two adapters of 10 % each: 1.2 times the 5 ms of reading the weights, and nothing of the rest."""
    engine = steps({"stepFactor": "0.1"}, lora(maxLoras=2))
    times = play(engine, [(0, sequence("a", A, 2)), (0, sequence("b", B, 1))])
    assert times == {"a": [11_000, 21_500], "b": [11_000]}


def test_a_load_by_the_api_stands_between_two_steps() -> None:
    """It begins when the step that runs has ended, and is there when the next one begins to compute."""
    engine = steps(COSTS, lora(maxLoras=2))
    engine.add(sequence("base", None), 0)
    engine.advance(0)
    there_us = engine.load_adapter(A, 4_000)
    assert there_us == 10_000 + FROM_DISK
    assert engine.load_adapter(A, 5_000) == 5_000, "it is in its slot"
    assert play(engine, now_us=10_000) == {"base": [10_000, there_us + 10_000, there_us + 20_000]}


# --- requests ----------------------------------------------------------------------------------------


def test_with_simple_only_those_of_the_adapter_wait() -> None:
    """Both of its sequences, the one that came while it was being loaded as well; the base model's is on time."""
    engine = paced(COSTS, lora())
    arriving = [(0, sequence("base", None, 1)), (0, sequence("a", A, 2)), (40_000, sequence("late", A, 1, 40_000))]
    times = play(engine, arriving)
    assert times["base"] == [50_000]
    assert times["a"] == [FROM_DISK + 50_000, FROM_DISK + 60_000]
    assert times["late"] == [FROM_DISK + 50_000]


def test_loads_come_one_after_the_other() -> None:
    """Two adapters that are needed at the same time share the way from the disk."""
    times = play(paced(COSTS, lora(maxLoras=2)), [(0, sequence("a", A, 1)), (0, sequence("b", B, 1))])
    assert times == {"a": [FROM_DISK + 50_000], "b": [2 * FROM_DISK + 50_000]}


def test_what_was_loaded_ahead_is_waited_for_only_as_long_as_it_takes() -> None:
    """A sequence that comes half-way through a load waits for the other half."""
    engine = paced(COSTS, lora())
    there_us = engine.load_adapter(A, 0)
    assert there_us == FROM_DISK
    assert play(engine, [(16_000, sequence("a", A, 1, 16_000))], 16_000) == {"a": [FROM_DISK + 50_000]}


# --- the queue ---------------------------------------------------------------------------------------


def test_a_passed_over_sequence_begins_when_the_adapter_before_it_has_ended() -> None:
    """One slot: b waits for a, the base model's sequence does not, and b is `deferred` for that long."""
    engine = steps({}, lora())
    waiting = sequence("b", B, 1)
    for seq in (sequence("a", A, 3), waiting, sequence("base", None, 1)):
        engine.add(seq, 0)
    engine.advance(0)
    assert (engine.running, engine.waiting, engine.deferred) == (2, 1, 1)
    assert play(engine, now_us=10_000) == {"a": [10_000, 20_000, 30_000], "base": [10_000], "b": [40_000]}
    assert engine.deferred == 0


def test_more_room_is_used_at_once() -> None:
    """`maxLoras` that is raised while a sequence waits for it lets that one in with the next step."""
    engine = steps({}, lora())
    engine.add(sequence("a", A, 4), 0)
    engine.add(sequence("b", B, 1), 0)
    engine.advance(0)
    engine.use_lora(Lora(enabled=True, max_loras=2))
    assert play(engine, now_us=10_000)["b"] == [20_000]


def test_less_room_lets_what_runs_end() -> None:
    """Two adapters run and only one may: nobody is thrown out, and a third one has to wait for both."""
    engine = steps({}, lora(maxLoras=2))
    for seq in (sequence("a", A, 3), sequence("b", B, 2)):
        engine.add(seq, 0)
    engine.advance(0)
    engine.use_lora(Lora(enabled=True, max_loras=1))
    engine.add(sequence("c", C, 1), 0)
    assert play(engine, now_us=10_000) == {"a": [10_000, 20_000, 30_000], "b": [10_000, 20_000], "c": [40_000]}


def test_an_aborted_sequence_does_not_wait_any_more() -> None:
    """Neither as deferred nor for the room that it never had."""
    engine = steps({}, lora())
    waiting = sequence("b", B, 1)
    engine.add(sequence("a", A, 2), 0)
    engine.add(waiting, 0)
    engine.advance(0)
    engine.abort(waiting)
    assert (engine.waiting, engine.deferred) == (0, 0)
    assert "b" not in play(engine, now_us=10_000)
