"""Load balancing between data-parallel ranks: vLLM's rule, and what its API process knows when it applies it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.engine.balancer import Balancer

MS = 1000


def test_a_burst_goes_round() -> None:
    """No snapshot comes in time, and what was sent is known: engines that are alike take turns."""
    balancer = Balancer(4)
    assert [balancer.choose(0) for _ in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_what_is_in_flight_is_known_though_the_snapshot_is_old() -> None:
    """A snapshot that shows nobody at work does not hide the sequences that were sent to an engine."""
    balancer = Balancer(2)
    for _ in range(3):
        balancer.pin(0)
    for engine in (0, 1):
        balancer.told(engine, 1, 0, 0.0, 0)
        balancer.told(engine, 0, 0, 0.0, 0)
    assert [balancer.choose(1_000_000 * turn) for turn in (1, 2, 3)] == [1, 1, 1]


def test_a_pinned_sequence_takes_no_turn() -> None:
    balancer = Balancer(3)
    balancer.pin(1)
    balancer.ended(1)
    assert [balancer.choose(0), balancer.choose(0)] == [0, 1]


def test_a_queue_counts_for_more_where_the_cache_is_nearly_full() -> None:
    """Up to three times more at 100 %, and nothing up to 50 %: 4 waiting at 90 % are 13.6, more than 12 running."""
    for usage, expected in ((0.5, 0), (0.9, 1)):
        balancer = Balancer(2)
        balancer.told(0, 4, 0, usage, 0)
        balancer.told(1, 0, 12, usage, 0)
        assert balancer.choose(1) == expected


def test_a_load_is_seen_with_the_next_snapshot() -> None:
    """The first change is sent at once, the next one 100 ms after it."""
    balancer = Balancer(2)
    balancer.told(0, 0, 5, 0.0, 0)
    assert balancer.choose(1) == 1
    balancer.told(1, 0, 9, 0.0, 2)
    assert [balancer.choose(at) for at in (3, 100 * MS)] == [1, 1]
    assert balancer.choose(100 * MS + 1) == 0


def test_before_027_the_queue_alone_counts() -> None:
    """Four times the waiting and once the running, and what was sent since the last snapshot is waiting."""
    balancer = Balancer(2, counts_in_flight=False)
    balancer.told(0, 1, 0, 1.0, 0)
    balancer.told(1, 0, 5, 0.0, 0)
    assert [balancer.choose(1) for _ in range(3)] == [0, 1, 0]


def test_before_025_the_first_of_equals_is_taken() -> None:
    balancer = Balancer(3, counts_in_flight=False, takes_turns=False)
    assert [balancer.choose(0) for _ in range(4)] == [0, 1, 2, 0]
    balancer.told(0, 1, 1, 0.0, 0)
    balancer.told(0, 0, 0, 0.0, 0)
    assert balancer.choose(5_000_000) == 0


# --- the property ------------------------------------------------------------------------------------


@dataclass
class Coordinator:
    """vLLM's two processes as they are written: a loop that polls, and a client whose counts are replaced."""

    engines: int
    now_ms: int = 0
    last_publish: int = -5000
    changed: bool = False
    counts: list[list[float]] = field(default_factory=list)
    lb_engines: list[list[float]] = field(default_factory=list)
    inflight: list[int] = field(default_factory=list)
    start: int = 0

    def __post_init__(self) -> None:
        self.counts = [[0, 0, 0.0] for _ in range(self.engines)]
        self.lb_engines = [[0, 0, 0.0] for _ in range(self.engines)]
        self.inflight = [0] * self.engines

    def pass_ms(self, milliseconds: int) -> None:
        for _ in range(milliseconds):
            if self.now_ms - self.last_publish >= (100 if self.changed else 5000):
                self.last_publish, self.changed = self.now_ms, False
                self.lb_engines = [[*counts] for counts in self.counts]
            self.now_ms += 1

    def tell(self, engine: int, waiting: int, running: int, usage: float) -> None:
        if self.counts[engine][:2] != [waiting, running]:
            self.counts[engine] = [waiting, running, usage]
            self.changed = True

    def choose(self) -> int:
        lowest, found = float("inf"), 0
        for turn in range(self.engines):
            index = (self.start + turn) % self.engines
            waiting, running, usage = self.lb_engines[index]
            score: float = max(self.inflight[index], waiting + running)
            if waiting:
                score += waiting * 6.0 * max(0.0, usage - 0.5)
            if score < lowest:
                lowest, found = score, index
        self.lb_engines[found][0] += 1
        self.start = (self.start + 1) % self.engines
        self.inflight[found] += 1
        return found


Deed = tuple[int, Literal["choose", "end", "tell"], int, int, int, float]
deeds = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 40, 99, 100, 101, 4999, 5001]),
        st.sampled_from(["choose", "choose", "end", "tell", "tell"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 6),
        st.sampled_from([0.0, 0.5, 0.75, 1.0]),
    ),
    max_size=40,
)


@given(engines=st.integers(2, 4), course=deeds)
def test_it_chooses_as_vllms_processes_do(engines: int, course: list[Deed]) -> None:
    """Whatever is told, sent and ended, and whenever."""
    balancer, model = Balancer(engines), Coordinator(engines)
    for wait_ms, deed, some, waiting, running, usage in course:
        model.pass_ms(wait_ms)
        now_us = model.now_ms * MS
        engine = some % engines
        if deed == "choose":
            assert balancer.choose(now_us) == model.choose()
        elif deed == "tell":
            model.tell(engine, waiting, running, usage)
            balancer.told(engine, waiting, running, usage, now_us)
        elif model.inflight[engine]:
            model.inflight[engine] -= 1
            balancer.ended(engine)
        assert list(balancer.in_flight) == model.inflight


@pytest.mark.parametrize("engines", [2, 8])
def test_an_even_load_stays_even(engines: int) -> None:
    """Sequences that end in the order in which they came never leave one engine more than one ahead."""
    balancer, sent = Balancer(engines), list[int]()
    for moment in range(200):
        sent.append(balancer.choose(moment * 7 * MS))
        if moment >= 3 * engines:
            balancer.ended(sent[moment - 3 * engines])
        assert max(balancer.in_flight) - min(balancer.in_flight) <= 1
