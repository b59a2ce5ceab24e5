"""The queue's rule, driven by hypothesis: nothing is lost, nothing runs twice at once, nothing runs early."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ghostfleet_operator.workqueue import Backoff, Schedule

KEYS = st.sampled_from("abcd")
DELAYS = st.sampled_from([0.0, 0.5, 1.0, 30.0])


class Queueing(RuleBasedStateMachine):
    """Compares the schedule with a plain model: the earliest time asked for, per key, since it was last taken."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule: Schedule[str] = Schedule()
        self.now = 0.0
        self.wanted: dict[str, float] = {}
        self.taken: set[str] = set()

    @rule(key=KEYS, delay=DELAYS)
    def add(self, key: str, delay: float) -> None:
        at = self.now + delay
        self.schedule.add(key, at)
        self.wanted[key] = min(at, self.wanted.get(key, at))

    @rule()
    def take(self) -> None:
        ready = {key for key, at in self.wanted.items() if at <= self.now and key not in self.taken}
        key = self.schedule.take(self.now)
        if not ready:
            assert key is None
            return
        assert key in ready
        assert self.wanted[key] == min(self.wanted[k] for k in ready), "the one that has been due longest goes first"
        del self.wanted[key]
        self.taken.add(key)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.taken)))
        self.schedule.done(key)
        self.taken.remove(key)

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.schedule) == len(self.wanted)
        assert self.schedule.taken == len(self.taken)
        queued = [at for key, at in self.wanted.items() if key not in self.taken]
        assert self.schedule.next_at() == (min(queued) if queued else None)
        assert self.schedule.due(self.now) == sum(at <= self.now for at in queued)


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_thousand_events_about_one_key_are_one_piece_of_work() -> None:
    schedule: Schedule[str] = Schedule()
    for _ in range(1000):
        schedule.add("a", 0.0)
    assert schedule.take(0.0) == "a"
    assert schedule.take(0.0) is None


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 100))
def test_back_off_doubles_to_a_limit_and_is_spread(failures: int, seed: int) -> None:
    backoff = Backoff(first=1.0, longest=300.0, spread=0.2)
    plain = min(300.0, 2.0 ** min(failures - 1, 20))
    assert 0.8 * plain <= backoff.delay(failures, random.Random(seed)) <= 1.2 * plain


def test_back_off_of_two_keys_differs() -> None:
    rng = random.Random(7)
    assert Backoff().delay(3, rng) != Backoff().delay(3, rng)
