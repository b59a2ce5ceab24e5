"""The queue with workers on a real event loop, and the write budget on a clock of the test's own."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_operator.workqueue import Backoff, WorkQueue, WriteBudget


def make_queue(backoff: Backoff | None = None) -> WorkQueue[str]:
    return WorkQueue(clock=time.monotonic, rng=random.Random(1), backoff=backoff)


async def working(
    queue: WorkQueue[str], work: Callable[[str], Awaitable[None]], workers: int = 4
) -> asyncio.Task[None]:
    task = asyncio.create_task(queue.run(work, workers))
    await asyncio.sleep(0)
    return task


async def stopped(queue: WorkQueue[str], task: asyncio.Task[None]) -> None:
    queue.close()
    await asyncio.wait_for(task, 2)


async def test_a_key_is_never_worked_on_by_two_workers_and_news_during_work_is_not_lost() -> None:
    queue, running, runs = make_queue(), Counter[str](), Counter[str]()

    async def work(key: str) -> None:
        running[key] += 1
        assert running[key] == 1
        await asyncio.sleep(0.005)
        runs[key] += 1
        running[key] -= 1

    task = await working(queue, work, workers=8)
    for _ in range(50):
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(0.001)
    before = runs["a"]
    queue.add("a")
    await asyncio.sleep(0.03)
    assert runs["a"] > before, "an event that came while the key was worked on causes another pass"
    assert runs["a"] < 30, "events that came while it was worked on collapsed"
    assert runs["b"] >= 1
    await stopped(queue, task)


async def test_different_keys_are_worked_on_at_the_same_time() -> None:
    queue, entered, release = make_queue(), set[str](), asyncio.Event()

    async def work(key: str) -> None:
        entered.add(key)
        await release.wait()

    task = await working(queue, work, workers=3)
    for key in "abcd":
        queue.add(key)
    await asyncio.sleep(0.02)
    assert len(entered) == 3
    assert (queue.in_flight, queue.depth) == (3, 1)
    release.set()
    await stopped(queue, task)


async def until(done: Callable[[], bool]) -> None:
    """Return when something has come about; fails after 10 s."""
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.005)


async def test_a_delayed_key_waits_and_an_event_brings_it_forward() -> None:
    queue, times = make_queue(), list[float]()
    start = time.monotonic()

    async def work(key: str) -> None:
        times.append(time.monotonic() - start)

    task = await working(queue, work)
    queue.add("a", delay=0.05)
    await until(lambda: len(times) == 1)
    assert times[0] >= 0.05
    queue.add("a", delay=60)
    assert (queue.depth, queue.waiting) == (0, 1)
    queue.add("a")
    await until(lambda: len(times) == 2)
    await stopped(queue, task)


async def test_failures_back_off_and_success_resets_them() -> None:
    queue = make_queue(Backoff(first=1.0, longest=8.0, spread=0.0))
    assert [queue.failed("a") for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert queue.failed("b") == 1.0, "another key has a back-off of its own"
    queue.succeeded("a")
    assert queue.failed("a") == 1.0
    assert queue.retries == 7


async def test_closing_lets_the_work_under_way_end_and_starts_none() -> None:
    queue, ended = make_queue(), list[str]()

    async def work(key: str) -> None:
        await asyncio.sleep(0.03)
        ended.append(key)

    task = await working(queue, work, workers=1)
    queue.add("a")
    queue.add("b")
    await asyncio.sleep(0.01)
    await stopped(queue, task)
    assert ended == ["a"]


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(writes=st.integers(1, 300), rate=st.sampled_from([1.0, 50.0, 200.0]), burst=st.integers(1, 50))
def test_writes_come_at_once_up_to_the_burst_and_then_at_the_rate(writes: int, rate: float, burst: int) -> None:
    clock = Clock()
    budget = WriteBudget(rate=rate, burst=burst, clock=clock, sleep=clock.sleep)

    async def write_all() -> None:
        for _ in range(writes):
            await budget.take()

    asyncio.run(write_all())
    assert abs(clock.now - max(0, writes - burst) / rate) < 1e-6


async def test_an_idle_budget_fills_up_to_its_burst_and_no_further() -> None:
    clock = Clock()
    budget = WriteBudget(rate=10.0, burst=5, clock=clock, sleep=clock.sleep)
    clock.now = 1000.0
    for _ in range(6):
        await budget.take()
    assert abs(clock.now - 1000.1) < 1e-6


async def test_a_paused_budget_lets_nobody_write_and_has_no_burst_afterwards() -> None:
    clock = Clock()
    budget = WriteBudget(rate=10.0, burst=5, clock=clock, sleep=clock.sleep)
    budget.pause(3.0)
    budget.pause(1.0)
    await budget.take()
    assert 3.0 <= clock.now <= 3.2
    await budget.take()
    assert clock.now >= 3.1
