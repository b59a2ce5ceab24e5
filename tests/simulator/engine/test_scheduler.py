"""The scheduler's rules, one by one, against the scheduler alone: no clock, no pacing."""

from __future__ import annotations

from typing import Any

import pytest

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence, Status


class Answer:
    """An answer of `length` tokens, all of them equal."""

    finish_reason = "length"
    stop_reason = None

    def __init__(self, length: int, token: int) -> None:
        self.length, self._token = length, token

    def token_ids(self, start: int, stop: int) -> list[int]:
        return [self._token if index < self.length else -1 for index in range(start, stop)]


def scheduler(blocks: int = 100, **tree: Any) -> Scheduler:
    """Blocks of 4 tokens, `blocks` of them usable."""
    cache = {"blockSize": 4, "blocks": blocks + 1, **tree.pop("kvCache", {})}
    scheduling = {"maxNumBatchedTokens": 1000, **tree.pop("scheduling", {})}
    engine = tree.pop("engine", {})
    return Scheduler(
        ServerConfig.model_validate(
            {
                "model": {"name": "m", "maxModelLen": min(4 * blocks, 1000)},
                "kvCache": cache,
                "scheduling": scheduling,
                "engine": engine,
            }
        ),
        bytes(32),
    )


def sequence(name: str, prompt: int | list[int], answer: int = 50, *, said: int = 0, **more: Any) -> Sequence:
    """A sequence whose prompt is its own, of a length, or given."""
    mark = sum(name.encode()) * 1000
    tokens = [mark + i for i in range(prompt)] if isinstance(prompt, int) else prompt
    return Sequence(name, tokens, Answer(answer, said), more.pop("arrival_us", 0), **more)


def admit(it: Scheduler, *sequences: Sequence, budget: int | None = None) -> list[str]:
    """Queue sequences and run one pass of admissions; the names of the admitted."""
    for seq in sequences:
        it.add(seq, 0)
    return [seq.id for seq in it.admit(it.budget if budget is None else budget, 0)[1]]


def speak(it: Scheduler, seq: Sequence, tokens: int = 1) -> list[str]:
    """Give a decoding sequence tokens, as the engine does; the names of those preempted for it."""
    preempted: list[str] = []
    for _ in range(tokens):
        seq.produced += 1
        if seq.room:
            seq.room -= 1
        else:
            preempted += [victim.id for victim in it.grow([seq])]
    return preempted


def names(sequences: Any) -> list[str]:
    return [seq.id for seq in sequences]


# Admission


def test_slots_are_given_in_order_of_arrival() -> None:
    it = scheduler(scheduling={"maxNumSeqs": 2})
    assert admit(it, sequence("a", 4), sequence("b", 4), sequence("c", 4)) == ["a", "b"]
    assert names(it.waiting) == ["c"]


def test_the_head_of_the_queue_blocks_those_behind_it() -> None:
    it = scheduler(blocks=10)
    assert admit(it, sequence("a", 24), sequence("large", 20), sequence("small", 4)) == ["a"]


def test_a_prompt_is_admitted_only_when_all_its_blocks_are_free() -> None:
    """Though it takes only those of its first part."""
    it = scheduler(blocks=10, scheduling={"maxNumBatchedTokens": 8})
    first, second = sequence("a", 32), sequence("b", 12)
    assert admit(it, first, second) == ["a"]
    assert len(first.blocks) == 2
    it.prefill(8, [])
    it.prefill(8, [])
    assert it.prefill(4, [])[0] == 0
    assert it.pool.free == 3
    assert admit(it) == ["b"]


def test_without_full_reservation_the_first_part_is_enough() -> None:
    """Then prompts compete for blocks, and the last admitted one loses."""
    it = scheduler(blocks=10, scheduling={"maxNumBatchedTokens": 40, "reserveFullIsl": False})
    first, second = sequence("a", 36), sequence("b", 36)
    assert admit(it, first, budget=20) == ["a"]
    assert admit(it, second, budget=20) == ["b"]
    assert it.pool.free == 0
    it.chunks.clear()
    preempted: list[Sequence] = []
    budget, complete = it.prefill(40, preempted)
    assert (budget, names(complete), names(preempted)) == (24, ["a"], ["b"])
    assert (second.computed, second.blocks, second.status) == (0, [], Status.PREEMPTED)


def test_the_watermark_is_kept_free_while_others_run() -> None:
    it = scheduler(blocks=99, scheduling={"watermark": "10%"}, kvCache={"blocks": 100})
    assert admit(it, sequence("alone", 4 * 99)) == ["alone"], "nothing runs, so nothing is held back"
    it.remove(next(iter(it.running)))
    assert admit(it, sequence("a", 4 * 49), sequence("b", 4 * 41)) == ["a"]
    assert admit(it, sequence("c", 4)) == [], "b stays at the head"
    it.remove(it.waiting.head)
    assert admit(it, sequence("d", 4 * 39)) == ["c", "d"]
    assert it.pool.free == 99 - 49 - 1 - 39


def test_a_sequence_that_can_never_fit_is_known() -> None:
    it = scheduler(blocks=10)
    assert it.fits(sequence("a", 30, 11))
    assert not it.fits(sequence("a", 30, 12))


# Parts of prompts


def test_a_long_prompt_takes_what_budget_there_is() -> None:
    it = scheduler(scheduling={"maxNumBatchedTokens": 10})
    a, b = sequence("a", 25), sequence("b", 8)
    assert admit(it, a, b) == ["a"]
    assert it.chunks == {a: (0, 10)}
    assert it.prefill(10, []) == (0, [])
    it.chunks.clear()
    assert it.prefill(10, []) == (5, [a])
    assert it.chunks == {a: (20, 5)}
    assert admit(it, budget=5) == ["b"]
    assert (b.computed, len(b.blocks)) == (5, 2)


def test_without_chunks_a_prompt_waits_for_the_whole_budget() -> None:
    """And those behind it wait with it."""
    it = scheduler(blocks=200, scheduling={"enableChunkedPrefill": False})
    assert admit(it, sequence("a", 100), sequence("b", 300), sequence("c", 10), budget=350) == ["a"]
    assert admit(it) == ["b", "c"]


def test_the_threshold_holds_while_there_are_others() -> None:
    """One prompt cannot take the whole step from the others; alone it may."""
    it = scheduler(blocks=250, scheduling={"longPrefillTokenThreshold": 100})
    a, b = sequence("a", 400), sequence("b", 50)
    assert admit(it, a) == ["a"]
    assert a.computed == 400
    it.remove(a)
    c = sequence("c", 400)
    assert admit(it, c, b) == ["c", "b"]
    assert (c.computed, b.computed) == (100, 50)
    it.prefill(1000, [])
    assert c.computed == 200
    it.remove(b)
    it.prefill(1000, [])
    assert c.computed == 400


def test_an_adaptive_threshold_is_an_equal_share_at_least() -> None:
    threshold = {"longPrefillTokenThreshold": 100, "longPrefillTokenThresholdAdaptive": True}
    it = scheduler(blocks=250, scheduling=threshold)
    a, b = sequence("a", 600), sequence("b", 50)
    admit(it, a, b)
    assert a.computed == 500


# Preemption


def test_the_last_admitted_is_preempted_and_goes_to_the_head_of_the_queue() -> None:
    it = scheduler(blocks=10)
    a, b, c = sequence("a", 16), sequence("b", 20), sequence("c", 8)
    admit(it, a, b, c)
    assert names(it.running) == ["a", "b"]
    assert speak(it, a, 4) == [], "one block was free"
    assert speak(it, a) == ["b"]
    assert it.waiting.head is b
    assert names(it.waiting) == ["b", "c"]
    assert (b.preemptions, b.blocks, a.preemptions) == (1, [], 0)


def test_a_sequence_that_was_admitted_last_preempts_itself() -> None:
    it = scheduler(blocks=10)
    a, b = sequence("a", 20), sequence("b", 20)
    admit(it, a, b)
    assert speak(it, b) == ["b"]
    assert names(it.running) == ["a"]


def test_blocks_run_out_for_those_admitted_last_whatever_order_they_ask_in() -> None:
    it = scheduler(blocks=11)
    a, b = sequence("a", 20), sequence("b", 20)
    admit(it, a, b)
    for seq in (a, b):
        seq.produced += 1
    assert names(it.grow([b, a])) == ["b"]
    assert len(a.blocks) == 6


# Priority


def priority(**scheduling: Any) -> Scheduler:
    return scheduler(blocks=12, scheduling={"policy": "Priority", **scheduling})


def test_the_lowest_priority_number_is_served_first_then_by_arrival_then_by_id() -> None:
    it = priority()
    waiting = [
        sequence("late", 4, arrival_us=2, priority=1),
        sequence("b", 4, arrival_us=1, priority=1),
        sequence("a", 4, arrival_us=1, priority=1),
        sequence("urgent", 4, arrival_us=3, priority=-1),
    ]
    assert admit(it, *waiting) == ["urgent", "a", "b", "late"]


def test_under_first_come_first_served_priority_means_nothing() -> None:
    it = scheduler()
    assert admit(it, sequence("a", 4, priority=5), sequence("b", 4, priority=-5)) == ["a", "b"]


def test_the_least_urgent_is_preempted_of_equals_the_last_to_arrive() -> None:
    it = priority()
    a = sequence("a", 16, priority=2, arrival_us=1)
    b = sequence("b", 16, priority=2, arrival_us=0)
    c = sequence("c", 16, priority=0, arrival_us=9)
    admit(it, a, b, c)
    assert names(it.running) == ["c", "b", "a"]
    assert speak(it, c) == ["a"]
    assert speak(it, b) == []
    assert it.waiting.head is a


def test_one_that_preempts_itself_makes_room_for_the_more_urgent_behind_it() -> None:
    """vLLM 0.33 goes on with the next running sequence."""
    it = priority()
    unimportant = sequence("unimportant", 24, priority=9)
    admit(it, unimportant)
    urgent = sequence("urgent", 24, priority=0)
    admit(it, urgent)
    for seq in (unimportant, urgent):
        seq.produced += 1
    assert names(it.grow([unimportant, urgent])) == ["unimportant"]
    assert len(urgent.blocks) == 7


def test_budget_comes_back_from_a_prompt_that_is_preempted_in_the_same_pass() -> None:
    it = priority(reserveFullIsl=False, maxNumBatchedTokens=40)
    unimportant, urgent = sequence("unimportant", 40, priority=9), sequence("urgent", 40, priority=0)
    admit(it, unimportant, budget=20)
    admit(it, urgent, budget=20)
    assert it.pool.free == 2
    it.chunks.clear()
    preempted: list[Sequence] = []
    budget, complete = it.prefill(28, preempted)
    # 8 for the first one, lost again; 20 for the second one.
    assert (budget, names(complete), names(preempted)) == (8, ["urgent"], ["unimportant"])
    assert it.chunks == {urgent: (20, 20)}


# Prefix cache


def test_a_prompt_finds_the_blocks_of_one_that_begins_alike() -> None:
    """Even in the same pass, and while both run; only full blocks, and never the last token."""
    it = scheduler()
    a, b = sequence("a", list(range(40))), sequence("b", [*range(30), 99, 99])
    admit(it, a, b)
    assert (a.reused, a.cached_tokens) == (0, 0)
    assert (b.reused, b.cached_tokens, b.computed) == (28, 28, 32)
    assert b.blocks[:7] == a.blocks[:7]
    assert b.blocks[7] not in a.blocks
    assert it.chunks == {a: (0, 40), b: (28, 4)}
    assert it.pool.free == 100 - 10 - 1


@pytest.mark.parametrize(("tokens", "hit"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (33, 32)])
def test_the_last_token_is_always_computed(tokens: int, hit: int) -> None:
    """A prompt whose every block is there computes the last one again."""
    it = scheduler()
    admit(it, sequence("a", list(range(tokens))))
    b = sequence("b", list(range(tokens)))
    admit(it, b)
    assert b.reused == hit


def test_blocks_are_found_after_their_sequence_ended_until_they_are_needed() -> None:
    it = scheduler(blocks=10)
    a = sequence("a", list(range(16)))
    admit(it, a)
    it.remove(a)
    assert it.pool.usage == 0
    b = sequence("b", list(range(17)))
    admit(it, b)
    assert b.reused == 16
    it.remove(b)
    # 26 tokens take the six blocks that hold nothing, and one that does: the end of what was kept.
    other = sequence("other", 26)
    admit(it, other)
    it.remove(other)
    c = sequence("c", list(range(17)))
    admit(it, c)
    assert c.reused == 12


def test_what_is_found_free_counts_as_needed() -> None:
    """A hit saves computing, not memory, unless another sequence has the block."""
    it = scheduler(blocks=10)
    a = sequence("a", list(range(16)))
    admit(it, a)
    it.remove(a)
    admit(it, sequence("runs", 20))
    again = sequence("again", list(range(24)))
    assert admit(it, again) == []
    it.remove(again)
    assert admit(it, sequence("fits", list(range(20)))) == ["fits"]


@pytest.mark.parametrize(
    ("tokens", "ended", "hit"), [(1, False, 0), (2, False, 4), (5, False, 4), (6, False, 8), (5, True, 4), (6, True, 8)]
)
def test_blocks_of_an_answer_are_found_once_the_token_after_them_is_there(tokens: int, ended: bool, hit: int) -> None:
    """The last token of an answer is never computed, so the block that it would fill is never found."""
    it = scheduler()
    a = sequence("a", [1, 2, 3], said=7)
    admit(it, a)
    speak(it, a, tokens - ended)
    if ended:
        a.produced += 1
        it.remove(a)
    probe = sequence("probe", [1, 2, 3, *[7] * 9])
    admit(it, probe)
    assert probe.reused == hit


def test_a_preempted_sequence_finds_its_own_blocks() -> None:
    """It computes again only what is not there, and that is no query of the cache."""
    it = scheduler(blocks=12)
    a, b = sequence("a", 20), sequence("b", 20)
    admit(it, a, b)
    speak(it, b, 4)
    assert speak(it, a, 5) == ["b"]
    it.remove(a)
    assert (it.queried_tokens, it.hit_tokens) == (40, 0)
    assert admit(it) == ["b"]
    assert (b.num_tokens, b.reused, b.cached_tokens) == (24, 20, 0)
    assert (it.queried_tokens, it.hit_tokens) == (40, 0)


def test_only_admissions_are_counted() -> None:
    it = scheduler(blocks=12)
    admit(it, sequence("a", 40))
    waiting = sequence("b", 40)
    for _ in range(3):
        assert admit(it, *([waiting] if waiting.queued_us < 0 else [])) == []
    assert it.queried_tokens == 40


def test_a_salt_keeps_sequences_apart() -> None:
    it = scheduler()
    salts = [None, "x", "y", "x", None]
    sequences = [sequence(str(i), list(range(20)), cache_salt=salt) for i, salt in enumerate(salts)]
    admit(it, *sequences)
    assert [seq.reused for seq in sequences] == [0, 0, 0, 16, 16]


def test_one_that_does_not_read_the_cache_is_read_by_others() -> None:
    """Prompt logprobs need every token computed."""
    it = scheduler()
    first, reader, other = (
        sequence(name, list(range(20)), reads_prefix_cache=name != "reader") for name in ("first", "reader", "other")
    )
    admit(it, first, reader, other)
    assert [seq.reused for seq in (first, reader, other)] == [0, 0, 16]
    assert (it.queried_tokens, it.hit_tokens) == (40, 16)


def test_switched_off_nothing_is_found_and_nothing_is_hashed() -> None:
    it = scheduler(kvCache={"enablePrefixCaching": False})
    a, b = sequence("a", list(range(40))), sequence("b", list(range(40)))
    admit(it, a, b)
    speak(it, a, 20)
    assert (b.reused, a.block_hashes, b.block_hashes) == (0, [], [])
    assert it.queried_tokens == 0


def test_hashes_are_computed_part_by_part() -> None:
    """A very long prompt does not hold the loop up: no more of it is hashed in a pass than is computed."""
    it = scheduler(blocks=250, scheduling={"maxNumBatchedTokens": 100})
    a = sequence("a", 900)
    admit(it, a)
    assert len(a.block_hashes) == 25
    it.prefill(100, [])
    assert len(a.block_hashes) == 50


def test_a_reset_needs_every_block_and_can_take_them() -> None:
    """Those that ran stand at the head of the queue as they ran, and begin again from nothing."""
    it = scheduler()
    a, b, c = (sequence(name, list(range(20))) for name in "abc")
    admit(it, a, b)
    it.add(c, 0)
    assert not it.pool.reset()
    assert names(it.preempt_all()) == ["b", "a"]
    assert it.pool.reset()
    assert names(it.waiting) == ["a", "b", "c"]
    assert admit(it) == ["a", "b", "c"]
    assert [seq.reused for seq in (a, b, c)] == [0, 16, 16]
