"""Very long prompts are hashed in slices before they are queued, so that the loop is never long away."""

from __future__ import annotations

import asyncio

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.clock import VirtualClock
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Kind, Prompt, Sampling, Work
from ghostfleet_simulator.text.answer import Answer

PROMPTS, TOKENS, BLOCK = 24, 2048, 16
SLICE = 512
"""Blocks of a slice."""


class Silent:
    """An output that says nothing."""

    def __init__(self, generation: Generation, seq: Sequence, _answer: Answer, _prompt: Prompt, _index: int) -> None:
        self._generation, self._seq = generation, seq

    def token(self) -> None:
        """Nothing."""

    def finish(self) -> None:
        """End."""
        self._generation.ended(self._seq)


def server() -> tuple[SimulatedServer, VirtualClock]:
    clock = VirtualClock()
    config = {"model": {"name": "m"}, "kvCache": {"blocks": 8192, "blockSize": BLOCK}}
    return SimulatedServer(ServerConfig.model_validate(config), clock=clock), clock


def cached(one: SimulatedServer) -> set[bytes]:
    """Hashes of the blocks in its prefix cache."""
    return {block for rank in one.ranks for block in rank.engine.cached_blocks}


def prompts(count: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"r-{n}", [n + 1] * TOKENS, Sampling(max_tokens=2)) for n in range(count))


async def test_no_turn_of_the_loop_hashes_more_than_a_slice() -> None:
    """The answers are queued together once all is hashed, and their blocks are those of requests of their own."""
    one, clock = server()
    generation = one.generate(Work(Kind.COMPLETION, "r", "m", prompts(PROMPTS)), 0, Silent)
    hashed, turns = 0, 0
    while one.waiting == 0:
        now = sum(len(seq.block_hashes) for seq in generation.sequences)
        assert now - hashed <= SLICE
        hashed, turns = now, turns + 1
        await asyncio.sleep(0)
    assert turns >= PROMPTS * TOKENS // BLOCK // SLICE
    assert one.waiting == PROMPTS
    clock.run()
    assert all(seq.produced == 2 for seq in generation.sequences)
    apart, other = server()
    for prompt in prompts(PROMPTS):
        apart.generate(Work(Kind.COMPLETION, prompt.id, "m", (prompt,)), 0, Silent)
        other.run()
    assert cached(apart) == cached(one)


async def test_a_client_that_leaves_meanwhile_ends_all_of_it() -> None:
    one, clock = server()
    generation = one.generate(Work(Kind.COMPLETION, "r", "m", prompts(PROMPTS)), 0, Silent)
    assert one.waiting == 0
    generation.abandon()
    for _ in range(PROMPTS):
        await asyncio.sleep(0)
    clock.run()
    assert {seq.finish_reason for seq in generation.sequences} == {"abort"}
    assert (one.running, one.waiting) == (0, 0)
    assert one.metrics.requests.total == PROMPTS


def test_a_short_request_is_queued_at_once() -> None:
    """No loop is needed for it."""
    one, _ = server()
    one.generate(Work(Kind.COMPLETION, "r", "m", prompts(8)), 0, Silent)
    assert one.waiting == 8
