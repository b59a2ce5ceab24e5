"""A mishap of one answer, token by token: whatever happens when, nothing is lost and nothing is said twice."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_simulator.api.mishap import Mishap
from ghostfleet_simulator.config import Failure, FailureType
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.held import Held
from ghostfleet_simulator.runtime.outbox import Outbox
from ghostfleet_simulator.units import Duration


class _Choice:
    """The output of one choice: sends all that has been produced and not sent."""

    def __init__(self, seq: Any) -> None:
        self.seq = seq
        self.sent: list[int] = []
        self.ends = 0

    def token(self) -> None:
        assert not self.ends
        self._catch_up()

    def finish(self) -> None:
        self._catch_up()
        self.ends += 1

    def _catch_up(self) -> None:
        self.sent += range(len(self.sent), self.seq.produced)


class _Seq:
    produced = 0


class _Untouched:
    """A connection and a generation that a stall does not touch."""


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    after=st.integers(1, 12),
    released=st.integers(0, 40),
    how=st.sampled_from(["off", "stop", "never"]),
    data=st.data(),
)
def test_a_stall_holds_everything_back_and_loses_nothing(
    lengths: list[int], after: int, released: int, how: str, data: st.DataObject
) -> None:
    """Choices of one answer in any order, a stall anywhere, and its end anywhere: no token twice, each end once."""

    async def run() -> None:
        failure = Failure(type=FailureType.STALL, after_tokens=after, duration=Duration.parse("1h"))
        held = Held()
        held.use((failure,))
        mishap = Mishap(failure, held, cast("Any", _Untouched()), Outbox(), cast("Any", _Untouched()))
        seqs = [_Seq() for _ in lengths]
        choices = [_Choice(seq) for seq in seqs]
        outputs = [
            mishap.output(choice, cast("Generation", _Untouched()), cast("Sequence", seq))
            for choice, seq in zip(choices, seqs, strict=True)
        ]
        over = {"off": lambda: held.use(()), "stop": held.stop, "never": lambda: None}[how]
        held_since = None
        total = sum(lengths)
        for step in range(total):
            if step == released:
                over()
            alive = [n for n, seq in enumerate(seqs) if seq.produced < lengths[n]]
            chosen = data.draw(st.sampled_from(alive))
            seqs[chosen].produced += 1
            last = seqs[chosen].produced == lengths[chosen]
            outputs[chosen].finish() if last else outputs[chosen].token()
            if held_since is None and mishap.holding:
                held_since = step
            if mishap.holding:
                assert sum(len(choice.sent) for choice in choices) == held_since
        # It happens behind `after` tokens or in place of the last, unless it was over before.
        due = min(after, total - 1)
        happened = how == "never" or due < released
        assert (held_since is not None) == happened
        assert held_since in (None, due)
        over()
        if how == "never" and happened:
            assert mishap.holding
            mishap.close()
            return
        assert not mishap.holding
        assert [choice.sent for choice in choices] == [list(range(length)) for length in lengths]
        assert [choice.ends for choice in choices] == [1] * len(lengths)

    asyncio.run(run())
