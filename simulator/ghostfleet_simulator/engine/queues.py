"""The queue of sequences that wait for admission, under either policy (vLLM 0.33 v1/core/sched/request_queue.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from ghostfleet_simulator.config import SchedulingPolicy
from ghostfleet_simulator.engine.sequence import Sequence


class WaitingQueue(ABC):
    """Sequences in the order in which they are to be admitted; `len` and iteration tell what is in it."""

    @staticmethod
    def of(policy: SchedulingPolicy) -> WaitingQueue:
        """The queue of a policy."""
        return PriorityQueue() if policy is SchedulingPolicy.PRIORITY else ArrivalQueue()

    @property
    @abstractmethod
    def head(self) -> Sequence:
        """The next one; there must be one."""

    @abstractmethod
    def pop(self) -> Sequence:
        """Take the next one out."""

    @abstractmethod
    def add(self, seq: Sequence) -> None:
        """Queue a sequence that has arrived."""

    @abstractmethod
    def put_back(self, seq: Sequence) -> None:
        """Queue a sequence that was preempted."""

    @abstractmethod
    def remove(self, seq: Sequence) -> None:
        """Take out a sequence, wherever it stands."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Sequence]: ...


class ArrivalQueue(WaitingQueue):
    """First come, first served; who was preempted comes first."""

    def __init__(self) -> None:
        self._queue: deque[Sequence] = deque()

    @property
    def head(self) -> Sequence:
        """The next one."""
        return self._queue[0]

    def pop(self) -> Sequence:
        """Take the next one out."""
        return self._queue.popleft()

    def add(self, seq: Sequence) -> None:
        """Queue a sequence behind all others."""
        self._queue.append(seq)

    def put_back(self, seq: Sequence) -> None:
        """Queue a sequence before all others."""
        self._queue.appendleft(seq)

    def remove(self, seq: Sequence) -> None:
        """Take out a sequence."""
        self._queue.remove(seq)

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._queue)


class PriorityQueue(WaitingQueue):
    """The lowest priority number first, then by arrival, then by id; a preempted sequence has no privilege."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str, int, Sequence]] = []
        self._numbers = count()

    @property
    def head(self) -> Sequence:
        """The next one."""
        return self._heap[0][-1]

    def pop(self) -> Sequence:
        """Take the next one out."""
        return heappop(self._heap)[-1]

    def add(self, seq: Sequence) -> None:
        """Queue a sequence where it belongs."""
        heappush(self._heap, (seq.priority, seq.arrival_us, seq.id, next(self._numbers), seq))

    def put_back(self, seq: Sequence) -> None:
        """Queue a sequence where it belongs."""
        self.add(seq)

    def remove(self, seq: Sequence) -> None:
        """Take out a sequence."""
        self._heap = [entry for entry in self._heap if entry[-1] is not seq]
        heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[-1] for entry in sorted(self._heap))
