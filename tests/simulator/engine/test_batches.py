"""With the backends that pace by steps, a step is computed at a time and its whole batch gets its tokens at its end."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.simulator.engine.drive import Answer, Arrival, arrivals, configs, run

from ghostfleet_simulator.config import Backend, Profile, ServerConfig
from ghostfleet_simulator.engine.batches import BatchPacer
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.engine.steps import StepFeatures


def config(numbers: dict[str, Any] | None = None, *, lag: int = 0, **blocks: Any) -> ServerConfig:
    profile = {
        "backend": "StepTime",
        "stepTime": {"baseUs": 10_000} if numbers is None else numbers,
        "api": {"asyncSteps": lag, **blocks.pop("api", {})},
        "noise": blocks.pop("noise", {}),
    }
    tree = {"model": {"name": "m", "maxModelLen": 1024}, "profile": profile, **blocks}
    return ServerConfig.model_validate(tree)


def sequence(name: str, prompt: int = 10, answer: int = 5, at_us: int = 0) -> Sequence:
    return Sequence(name, [hash((name, index)) % 50_000 for index in range(prompt)], Answer(answer), at_us)


Times = dict[str, list[int]]


def play(engine: Engine, arriving: list[tuple[int, Sequence]] | None = None, now_us: int = 0) -> Times:
    """Follow the engine's wake-ups and add sequences at their times; the times of each sequence's tokens."""
    times: Times = defaultdict(list)
    pending = list(arriving or [])
    while True:
        while pending and pending[0][0] <= now_us:
            engine.add(pending.pop(0)[1], now_us)
        step = engine.advance(now_us)
        for seq in step.tokens:
            times[seq.id].append(now_us)
        following = [at for at in (step.wake_us, pending[0][0] if pending else None) if at is not None]
        if not following:
            return times
        now_us = max(now_us, min(following))


def test_a_step_gives_its_whole_batch_a_token() -> None:
    """The prompt's step gives the first token, each step after it one to everybody."""
    times = play(Engine(config()), [(0, sequence("a", answer=3)), (0, sequence("b", answer=2))])
    assert times == {"a": [10_000, 20_000, 30_000], "b": [10_000, 20_000]}


def test_who_arrives_in_a_step_waits_for_the_next() -> None:
    """Without asynchronous scheduling: half a step on average, and then its own."""
    times = play(Engine(config()), [(0, sequence("a")), (12_000, sequence("b", answer=1, at_us=12_000))])
    assert times["b"] == [30_000]


def test_with_asynchronous_scheduling_it_waits_for_one_step_more() -> None:
    """The step after the present one is put together already when a sequence arrives; an idle engine has no such."""
    times = play(Engine(config(lag=1)), [(0, sequence("a")), (12_000, sequence("b", answer=1, at_us=12_000))])
    assert times["a"] == [10_000, 20_000, 30_000, 40_000, 50_000]
    assert times["b"] == [40_000]
    assert play(Engine(config(lag=1)), [(7, sequence("alone", answer=2))])["alone"] == [10_007, 20_007]


def test_a_late_call_does_not_shift_the_steps_after_it() -> None:
    """Deadlines are absolute: the next step ends a step after the last one should have."""
    engine = Engine(config())
    engine.add(sequence("a"), 0)
    engine.advance(0)
    late = engine.advance(13_000)
    assert (len(late.tokens), late.wake_us) == (1, 20_000)


def test_a_long_prompt_takes_several_steps_and_others_go_on() -> None:
    """The budget of a step is shared: decodes first, prompts with the rest."""
    engine = Engine(config({"perTokenUs": 100}, scheduling={"maxNumBatchedTokens": 64}))
    times = play(engine, [(0, sequence("first", prompt=1, answer=4)), (1, sequence("long", prompt=150, answer=1))])
    assert times["first"] == [100, 6_500, 12_900, 15_400]
    assert times["long"] == [15_400]


def test_the_api_takes_its_time_before_the_engine() -> None:
    """Overhead, a part per prompt token, and noise that is never negative."""
    api = {"overhead": "2ms", "perPromptToken": "500us"}
    assert play(Engine(config(api=api)), [(0, sequence("a", prompt=4, answer=1))])["a"] == [14_000]
    engine = Engine(config(api=api, noise={"request": {"mean": "5ms", "cv": "0.5"}}, lag=0))
    arriving = [(at, sequence(str(at), prompt=4, answer=1, at_us=at)) for at in range(0, 60_000_000, 300_000)]
    delays = [times[0] - int(name) - 14_000 for name, times in play(engine, arriving).items()]
    assert min(delays) > 0
    assert 4_400 < sum(delays) / len(delays) < 5_600
    assert len(set(delays)) > 150


def test_what_is_on_its_way_through_the_api_waits_and_can_be_aborted() -> None:
    """It counts as waiting, and its abort leaves nothing behind."""
    engine = Engine(config(api={"overhead": "1s"}))
    seq = sequence("a")
    engine.add(seq, 0)
    assert engine.advance(0).wake_us == 1_000_000
    assert (engine.running, engine.waiting, engine.sequences) == (0, 1, [seq])
    engine.abort(seq)
    assert (seq.status, seq.finish_reason, engine.waiting) == (Status.FINISHED, "abort", 0)
    assert engine.advance(1).wake_us is None


def test_noise_moves_a_step_as_a_whole() -> None:
    """One draw per step: batch mates always stay together. Its mean is the step's, and stalls come on top."""
    engine = Engine(config(noise={"step": {"sigma": "0.1"}}))
    times = play(engine, [(0, sequence("a", answer=1000)), (0, sequence("b", answer=1000))])
    assert times["a"] == times["b"]
    gaps = [b - a for a, b in pairwise(times["a"])]
    assert 9_900 < sum(gaps) / len(gaps) < 10_100
    assert 800 < (sum((gap - 10_000) ** 2 for gap in gaps) / len(gaps)) ** 0.5 < 1_200
    stalls = play(
        Engine(config(noise={"stall": {"probability": "10%", "meanFraction": "2"}})), [(0, sequence("a", answer=1000))]
    )["a"]
    longer = [b - a - 10_000 for a, b in pairwise(stalls) if b - a > 10_000]
    assert 70 < len(longer) < 130
    assert 15_000 < sum(longer) / len(longer) < 25_000


def test_noise_is_off_unless_asked_for() -> None:
    """Steps of the same work last equally long."""
    times = play(Engine(config()), [(0, sequence("a", answer=500))])["a"]
    assert {b - a for a, b in pairwise(times)} == {10_000}


def test_new_numbers_apply_from_the_next_step_on() -> None:
    """The step that runs keeps its end."""
    engine = Engine(config())
    engine.add(sequence("a"), 0)
    engine.advance(0)
    engine.use(Profile.model_validate({"backend": "StepTime", "stepTime": {"baseUs": 1000}}), 4_000)
    assert play(engine, now_us=4_000)["a"] == [10_000, 11_000, 12_000, 13_000, 14_000]


@pytest.mark.parametrize(("begin", "end"), [("Simple", "StepTime"), ("StepTime", "Simple")])
def test_another_backend_takes_over_when_what_is_due_has_come(begin: str, end: str) -> None:
    """20 ms between tokens by requests and 10 ms by steps, whichever was first."""

    def profile(backend: str) -> dict[str, Any]:
        simple = {"timeToFirstToken": "20ms", "interTokenLatency": "20ms"}
        return {"backend": backend, "simple": simple, "stepTime": {"baseUs": 10_000}}

    engine = Engine(config().model_copy(update={"profile": Profile.model_validate(profile(begin))}))
    engine.add(sequence("a"), 0)
    engine.advance(0)
    engine.use(Profile.model_validate(profile(end)), 4_000)
    by_requests, by_steps = [20_000, 30_000, 40_000, 50_000, 60_000], [10_000, 30_000, 50_000, 70_000, 90_000]
    assert play(engine, now_us=4_000)["a"] == (by_requests if begin == "Simple" else by_steps)


def test_a_frozen_engine_makes_no_step_for_the_time_it_was_frozen() -> None:
    """The step that ran goes on for what it had left; who came meanwhile begins with the end of the pause."""
    engine = Engine(config())
    engine.add(sequence("a", answer=2), 0)
    engine.advance(0)
    engine.pause()
    engine.resume(frozen_us=1_000_000)
    assert play(engine, now_us=1_002_000)["a"] == [1_010_000, 1_020_000]
    engine.pause()
    engine.add(sequence("b", answer=1, at_us=2_000_000), 2_000_000)
    engine.resume(frozen_us=500_000)
    assert play(engine, now_us=2_500_000)["b"] == [2_510_000]


class Counting:
    """A step timer of 1 ms that counts the work of every step anew from the sequences themselves."""

    def __init__(self, pacer: BatchPacer) -> None:
        self.pacer = pacer
        self.steps = 0

    def step_us(self, work: StepFeatures) -> float:
        scheduler = self.pacer._scheduler
        parts = list(scheduler.chunks.values())
        decoding = [seq for seq in scheduler.running if seq not in scheduler.chunks and seq.produced and seq.computed]
        decoding = [seq for seq in decoding if seq not in self.pacer._idle]
        assert work.prefill_tokens == sum(size for _, size in parts)
        assert work.prefill_work == sum(size * (before + size / 2) for before, size in parts)
        assert work.prefills == len(parts)
        assert work.decodes == len(decoding)
        assert work.decode_context == sum(seq.num_tokens for seq in decoding)
        assert work.tokens <= scheduler.budget
        self.steps += 1
        return 1000.0


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs, plan=arrivals)
def test_the_work_of_a_step_is_exact(config: ServerConfig, plan: list[Arrival]) -> None:
    """What is kept as running sums is what counting anew gives, through aborts and preemptions."""
    profile = Profile.model_validate({"backend": Backend.STEP_TIME, "stepTime": {}})
    counted: list[Counting] = []

    def count(engine: Engine) -> None:
        pacer = engine._pacers[1]
        assert isinstance(pacer, BatchPacer)
        pacer._timer = Counting(pacer)
        counted.append(pacer._timer)

    tokens = run(config.model_copy(update={"profile": profile}), plan, begin=count).tokens
    assert counted[0].steps >= len({at_us for at_us, _, _ in tokens})
