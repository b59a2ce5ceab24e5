"""The engine schedules as vLLM V1 does, and its `simple` timer keeps the times it was given, whatever else runs."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from ghostfleet_simulator.config import Profile, ServerConfig
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence, Status


class Answer:
    """An answer of `length` tokens."""

    finish_reason = "length"
    stop_reason = None

    def __init__(self, length: int) -> None:
        self.length = length

    def token_ids(self, start: int, stop: int) -> list[int]:
        return list(range(start, stop))


def config(timing: dict[str, Any] | None = None, **blocks: Any) -> ServerConfig:
    simple = {"timeToFirstToken": "100ms", "interTokenLatency": "20ms"} if timing is None else timing
    tree = {"model": {"name": "m", "maxModelLen": 1024}, "profile": {"simple": simple}, **blocks}
    return ServerConfig.model_validate(tree)


def sequence(name: str, prompt: int = 10, answer: int = 5, at_us: int = 0, **more: Any) -> Sequence:
    """A sequence that shares no prefix with another one, unless they have the same name."""
    return Sequence(name, [*name.encode().ljust(prompt, b".")[:prompt]], Answer(answer), at_us, **more)


def play(engine: Engine, now_us: int = 0, until_us: int = 10**12) -> dict[str, list[int]]:
    """Follow the engine's wake-ups; the times of each sequence's tokens in microseconds."""
    times: dict[str, list[int]] = defaultdict(list)
    while now_us <= until_us:
        step = engine.advance(now_us)
        for seq in step.tokens:
            times[seq.id].append(now_us)
        if step.wake_us is None:
            break
        now_us = max(now_us, step.wake_us)
    return times


def test_first_token_and_gaps_are_exact_whatever_else_runs() -> None:
    """100 ms and 20 ms are 100 ms and 20 ms, alone and in company, with a prompt that needs many chunks beside it."""
    engine = Engine(config(scheduling={"maxNumBatchedTokens": 64}))
    engine.add(sequence("long", prompt=900), 0)
    engine.add(sequence("short"), 0)
    times = play(engine)
    for name in ("long", "short"):
        assert [b - a for a, b in pairwise(times[name])] == [20_000] * 4
    assert times["long"][0] == 100_000
    # The short one is admitted when the long one's chunks leave budget: 900 tokens take 14 full passes of a tick each.
    assert times["short"][0] == 114_000


def test_a_constant_gap_is_exact_whatever_the_tick() -> None:
    """A first token is put off to the next of the moments that divide a gap, here by two; every gap is exact."""
    engine = Engine(config({"timeToFirstToken": "2600us", "interTokenLatency": "2500us"}))
    engine.add(sequence("a", answer=5), 0)
    assert play(engine)["a"] == [3750, 6250, 8750, 11250, 13750]


def test_a_gap_that_changes_is_rounded_up_to_the_tick_and_does_not_drift() -> None:
    """Gaps of 2.6 ms, 4 % over 2.5 because two sequences run, come out on a grid of 1 ms and lose no time."""
    timing = {"timeToFirstToken": "2500us", "interTokenLatency": "2500us", "timeFactorUnderLoad": "1.04"}
    engine = Engine(config(timing, scheduling={"maxNumSeqs": 2}))
    for name in ("a", "b"):
        engine.add(sequence(name, answer=9), 0)
    first_due = 2600
    assert play(engine)["a"] == [-(-(first_due + 2600 * turn) // 1000) * 1000 for turn in range(9)]


def test_the_sequences_of_a_busy_server_share_moments() -> None:
    """Up to 63 sequences use every millisecond of a gap of 20; with one more, all of them only the even ones."""
    engine = Engine(config(scheduling={"maxNumSeqs": 64}))
    for index in range(63):
        engine.add(sequence(f"early {index}", answer=4), 1_000)
    assert play(engine, 1_000, 130_000)["early 62"] == [101_000, 121_000]
    engine.add(sequence("late", answer=3), 130_500)
    times = play(engine, 130_500)
    assert times["early 62"] == [142_000, 162_000]
    assert times["late"] == [232_000, 252_000, 272_000]


def test_a_first_token_of_a_busy_server_comes_at_the_nearest_moment() -> None:
    """Of the even milliseconds, the one before included; but never before the pass that admits it."""
    engine = Engine(config({"timeToFirstToken": "2ms", "interTokenLatency": "20ms"}, scheduling={"maxNumSeqs": 99}))
    for index in range(64):
        engine.add(sequence(f"early {index}", answer=9), 0)
    engine.advance(0)
    engine.add(sequence("before", answer=2), 4_900)
    engine.add(sequence("after", answer=2), 5_100)
    times = play(engine, 5_100, 8_100)
    assert (times["before"], times["after"]) == ([6_000], [8_000])
    engine.use(Profile.model_validate({"simple": {"timeToFirstToken": "300us", "interTokenLatency": "20ms"}}), 8_100)
    engine.add(sequence("not in the past", answer=2), 8_100)
    assert play(engine, 8_100)["not in the past"][0] == 10_000


def test_a_late_call_does_not_shift_the_tokens_after_it() -> None:
    """Deadlines are absolute."""
    engine = Engine(config())
    engine.add(sequence("a"), 0)
    engine.advance(0)
    assert engine.advance(117_000).wake_us == 120_000
    assert [seq.produced for seq in engine.advance(120_000).tokens] == [2]


def test_sequences_wait_for_a_slot_in_order() -> None:
    """`max_num_seqs` run; the next is admitted in the pass in which one ends."""
    engine = Engine(config(scheduling={"maxNumSeqs": 2}))
    for name in "abc":
        engine.add(sequence(name), 0)
    engine.advance(0)
    assert (engine.running, engine.waiting) == (2, 1)
    times = play(engine)
    assert times["a"][-1] == times["b"][-1] == 180_000
    assert times["c"][0] == 280_000


def test_the_head_of_the_queue_blocks_those_behind_it() -> None:
    """A prompt whose blocks are not all free is waited for; a short one behind it does not overtake."""
    engine = Engine(config(kvCache={"blocks": 65}))
    engine.add(sequence("running", prompt=640, answer=3), 0)
    engine.advance(0)
    engine.add(sequence("large", prompt=600, answer=1), 1000)
    engine.add(sequence("small", prompt=16, answer=1), 1000)
    engine.advance(1000)
    assert (engine.running, engine.waiting) == (1, 2)
    times = play(engine, 1000)
    assert times["running"] == [100_000, 120_000, 140_000]
    assert times["large"] == times["small"] == [240_000]


def test_the_last_admitted_is_preempted_and_says_what_it_had_to_say() -> None:
    """When blocks run out the victim is the newest; it loses its blocks, recomputes and continues its answer."""
    engine = Engine(config(kvCache={"blocks": 65}))
    old, new = sequence("old", prompt=500, answer=100), sequence("new", prompt=500, answer=100, at_us=1)
    engine.add(old, 0)
    engine.add(new, 0)
    engine.advance(0)
    assert engine.running == 2
    times = play(engine)
    assert old.preemptions == 0
    assert new.preemptions > 0
    assert engine.preemptions == new.preemptions
    assert len(times["old"]) == len(times["new"]) == 100
    assert times["new"][-1] > times["old"][-1]


def test_nobody_is_admitted_in_a_pass_that_preempted() -> None:
    """vLLM looks at the waiting queue only where the running ones were served."""
    engine = Engine(config({"timeToFirstToken": 0, "interTokenLatency": "1ms"}, kvCache={"blocks": 65}))
    engine.add(sequence("old", prompt=512, answer=100), 0)
    victim = sequence("victim", prompt=512, answer=100)
    engine.add(victim, 0)
    now, step = 0, engine.advance(0)
    while not step.preempted:
        now = max(now, step.wake_us or now)
        step = engine.advance(now)
    assert victim.status is Status.PREEMPTED
    assert engine.waiting == 1
    assert step.wake_us is not None


def test_prefill_times_follow_the_prompt_and_the_load() -> None:
    """`PerToken`: overhead plus time per token; the load factor is 1 alone and whole when every slot is taken."""
    timing = {"prefillOverhead": "10ms", "prefillTimePerToken": "100us", "timeFactorUnderLoad": "3"}
    engine = Engine(config(timing, scheduling={"maxNumSeqs": 2}))
    engine.add(sequence("alone", prompt=100, answer=1), 0)
    assert play(engine)["alone"] == [20_000]
    engine.add(sequence("a", prompt=100, answer=1), 1_000_000)
    engine.add(sequence("b", prompt=200, answer=1), 1_000_000)
    times = play(engine, 1_000_000)
    assert times["a"] == [1_060_000]
    assert times["b"] == [1_090_000]


def test_deviations_spread_the_times_within_their_cut() -> None:
    """Samples lie within 70 % of the mean and keep their microseconds."""
    engine = Engine(config({"interTokenLatency": "10ms", "interTokenLatencyStdDev": "3ms", "tick": "10us"}))
    engine.add(sequence("a", answer=800), 0)
    times = play(engine)["a"]
    gaps = [b - a for a, b in pairwise(times)]
    assert 9_700 < sum(gaps) / len(gaps) < 10_300
    assert min(gaps) >= 2_990
    assert max(gaps) <= 17_010
    assert len(set(gaps)) > 100


def test_a_profile_is_taken_over_between_two_tokens() -> None:
    """The token that is already due keeps its time; those after it follow the new profile."""
    engine = Engine(config())
    engine.add(sequence("a"), 0)
    engine.advance(0)
    engine.advance(100_000)
    engine.use(Profile.model_validate({"simple": {"timeToFirstToken": "1s", "interTokenLatency": "5ms"}}), 100_000)
    assert play(engine, 100_000)["a"] == [120_000, 125_000, 130_000, 135_000]


def test_an_aborted_sequence_frees_its_slot_and_blocks_at_once() -> None:
    """Whether it runs or waits."""
    engine = Engine(config(scheduling={"maxNumSeqs": 1}))
    running, waiting, last = (sequence(name) for name in ("running", "waiting", "last"))
    for seq in (running, waiting, last):
        engine.add(seq, 0)
    engine.advance(0)
    engine.abort(waiting)
    engine.abort(running)
    assert engine.kv_usage == 0
    times = play(engine, 50_000)
    assert list(times) == ["last"]
    assert running.finish_reason == waiting.finish_reason == "abort"


def test_a_sequence_that_can_never_fit_is_refused() -> None:
    """It would be preempted for ever."""
    engine = Engine(config(kvCache={"blocks": 65}))
    with pytest.raises(ValueError, match="do not fit into the whole KV cache"):
        engine.add(sequence("huge", prompt=1000, answer=100), 0)


def test_a_prefill_is_paid_for_what_the_prefix_cache_does_not_hold() -> None:
    """The second of two equal prompts computes its last block only; so does a preempted sequence that comes back."""
    timing = {"prefillOverhead": "10ms", "prefillTimePerToken": "100us", "interTokenLatency": "20ms"}
    engine = Engine(config(timing))
    engine.add(sequence("same", prompt=160, answer=1), 0)
    assert play(engine)["same"] == [26_000]
    again = sequence("same", prompt=160, answer=1, at_us=1_000_000)
    engine.add(again, 1_000_000)
    assert play(engine, 1_000_000)["same"] == [1_010_000 + 1_600 + 400]
    assert again.cached_tokens == 144


def test_a_step_tells_of_the_lookups_of_its_admissions() -> None:
    """And, with the first token, how much of the prompt was there."""
    engine = Engine(config())
    for name in ("same", "same"):
        engine.add(sequence(name, prompt=40), 0)
    step = engine.advance(0)
    assert (step.queried_tokens, step.hit_tokens, step.cached_tokens) == (80, 32, 0)
    step = engine.advance(100_000)
    assert (step.queried_tokens, step.hit_tokens) == (0, 0)
    assert (step.prompt_tokens, step.cached_tokens) == (80, 32)


def test_a_reset_waits_for_the_blocks_or_takes_them() -> None:
    """Taken, the sequences that ran begin again at once and go on with what they were saying."""
    engine = Engine(config())
    seq = sequence("a", prompt=64, answer=3)
    engine.add(seq, 0)
    engine.advance(0)
    engine.advance(100_000)
    assert not engine.reset_prefix_cache()
    assert engine.reset_prefix_cache(reset_running_requests=True)
    assert (seq.status, seq.preemptions, engine.kv_usage) == (Status.PREEMPTED, 1, 0)
    step = engine.advance(110_000)
    assert (step.preempted, seq.status, seq.reused) == (1, Status.RUNNING, 0)
    assert play(engine, 110_000)["a"] == [210_000, 230_000]
    assert engine.reset_prefix_cache()
    engine.add(sequence("a", prompt=64), 1_000_000)
    assert engine.advance(1_000_000).hit_tokens == 0


def test_the_urgent_go_first_and_the_others_say_what_they_had_to_say() -> None:
    """With the policy `Priority` a more urgent sequence takes the blocks of a less urgent one that runs."""
    engine = Engine(config(kvCache={"blocks": 65}, scheduling={"policy": "Priority"}))
    patient = sequence("patient", prompt=500, answer=100, priority=1)
    urgent = sequence("urgent", prompt=500, answer=100, at_us=1, priority=0)
    engine.add(patient, 0)
    engine.advance(0)
    engine.add(urgent, 1)
    times = play(engine, 1)
    assert (urgent.preemptions, patient.preemptions > 0) == (0, True)
    assert len(times["urgent"]) == len(times["patient"]) == 100
    assert times["patient"][-1] > times["urgent"][-1]
