"""Steps that take no time come several at once where many sequences run, and their deltas are merged; others never."""

from __future__ import annotations

import pytest

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.clock import VirtualClock
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.outbox import Outbox
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Kind, Prompt, Sampling, Work
from ghostfleet_simulator.text.answer import Answer

TOKENS = 12


class Told:
    """An output that notes how many tokens it could tell at a time, as the choice of a stream does."""

    def __init__(self, outbox: Outbox, generation: Generation, seq: Sequence) -> None:
        self._outbox, self._generation, self._seq = outbox, generation, seq
        self.calls = 0
        self.deltas: list[int] = []

    def _tell(self) -> None:
        if new := self._seq.produced - sum(self.deltas):
            self.deltas.append(new)

    def token(self) -> None:
        """Tell, or wait for more."""
        self.calls += 1
        if not self._outbox.more:
            self._tell()

    def finish(self) -> None:
        """Tell the rest."""
        self._tell()
        self._generation.ended(self._seq)


def play(sequences: int, ttft: str, itl: str, **blocks: object) -> list[Told]:
    clock = VirtualClock()
    profile = {"simple": {"timeToFirstToken": ttft, "interTokenLatency": itl}}
    server = SimulatedServer(
        ServerConfig.model_validate({"model": {"name": "m"}, "profile": profile, **blocks}), clock=clock
    )
    told: list[Told] = []

    def output(generation: Generation, seq: Sequence, _answer: Answer, _prompt: Prompt, _index: int) -> Told:
        told.append(Told(server.outbox, generation, seq))
        return told[-1]

    for number in range(sequences):
        prompt = Prompt(f"r{number}", [number + 1, 2, 3], Sampling(TOKENS, TOKENS, ignore_eos=True))
        server.generate(Work(Kind.COMPLETION, prompt.id, "m", (prompt,)), 0, output)
    clock.run()
    assert [sum(one.deltas) for one in told] == [TOKENS] * sequences
    assert server.metrics.totals()["generationTokens"] == TOKENS * sequences
    assert (server.running, server.waiting) == (0, 0)
    return told


@pytest.mark.parametrize(("sequences", "most"), [(1, 1), (15, 1), (16, 2), (64, 5), (200, 8)])
def test_the_more_run_the_more_is_merged(sequences: int, most: int) -> None:
    """An output still hears of every token at its step, for a stop string may end the answer there."""
    told = play(sequences, "0ms", "0ms")
    assert {max(one.deltas) for one in told} == {most}
    assert {one.calls for one in told} == {TOKENS - 1}


@pytest.mark.parametrize("itl", ["1ms", "20ms"])
def test_what_takes_time_is_never_merged(itl: str) -> None:
    """Not even where tokens of several steps are late together."""
    assert {max(one.deltas) for one in play(64, "0ms", itl)} == {1}


def test_nobody_stays_silent_whom_the_last_step_passed_over() -> None:
    """With fewer tokens in a step than sequences run each step leaves out some of them, others each time."""
    scheduling = {"maxNumSeqs": 64, "maxNumBatchedTokens": 64}
    model = {"name": "m", "maxModelLen": 512}
    told = play(80, "0ms", "0ms", scheduling=scheduling, kvCache={"blocks": 40}, model=model)
    assert all(one.deltas for one in told)
