"""Several engines behind one API: who gets a sequence, and what each has for itself. On a virtual clock."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.problems import validated
from ghostfleet_simulator.runtime.clock import VirtualClock
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.standby import PauseMode
from ghostfleet_simulator.runtime.work import Kind, Prompt, Sampling, Work
from ghostfleet_simulator.text.answer import Answer
from ghostfleet_simulator.text.tokenizer import Tokenizer

TIMES = {"timeToFirstToken": "100ms", "interTokenLatency": "20ms"}


class Ender:
    """An output that is glad of the end."""

    def __init__(self, generation: Generation, seq: Sequence) -> None:
        self._generation, self._seq = generation, seq

    def token(self) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Say so."""
        self._generation.ended(self._seq)


def output(generation: Generation, seq: Sequence, _answer: Answer, _prompt: Prompt, _index: int) -> Ender:
    return Ender(generation, seq)


class Bench:
    """A server of some ranks, its clock, and requests."""

    def __init__(self, size: int, **more: Any) -> None:
        raw = {"model": {"name": "m"}, "dataParallelSize": size, "profile": {"simple": TIMES}, **more}
        self.clock = VirtualClock()
        self.server = SimulatedServer(validated(ServerConfig, raw), clock=self.clock, tokenizer=Tokenizer())
        self._count = 0

    def ask(self, rank: int | None = None, n: int = 1, tokens: int = 10, prompt: list[int] | None = None) -> Generation:
        self._count += 1
        sampling = Sampling(tokens, tokens, n=n, ignore_eos=True)
        name = f"r{self._count}"
        work = Work(Kind.CHAT, name, "m", (Prompt(name, prompt or [self._count] * 40, sampling),), rank=rank)
        return self.server.generate(work, self.server.now_us(), output)

    @property
    def shares(self) -> list[int]:
        """Sequences that have ended, by rank."""
        ended = Counter(record.rank for record in self.server.metrics.requests.newest())
        return [ended[rank.number] for rank in self.server.ranks]

    def shown(self, name: str, **labels: str) -> dict[str, float]:
        """The values of a family by engine."""
        found: dict[str, float] = {}
        for line in self.server.metrics.render().decode().splitlines():
            if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                found[line.partition('engine="')[2].partition('"')[0]] = float(line.rpartition(" ")[2])
        return found


def test_requests_are_spread_over_the_ranks() -> None:
    bench = Bench(4)
    for _ in range(10):
        bench.ask()
    assert [rank.engine.waiting + rank.engine.running for rank in bench.server.ranks] == [3, 3, 2, 2]
    bench.clock.run()
    assert bench.shares == [3, 3, 2, 2]
    assert bench.shown("vllm:request_success_total", finished_reason="length") == {"0": 3, "1": 3, "2": 2, "3": 2}


def test_a_request_goes_to_the_rank_that_it_names() -> None:
    bench = Bench(3)
    for _ in range(4):
        bench.ask(rank=2)
    bench.clock.run()
    assert bench.shares == [0, 0, 4]


def test_the_answers_of_one_request_are_spread_too() -> None:
    """To vLLM's engines each is a request. They are counted together in the rank of the one that ended last."""
    bench = Bench(2)
    generation = bench.ask(n=3)
    bench.clock.run()
    assert [seq.rank for seq in generation.sequences] == [0, 1, 0]
    assert sum(bench.shown("vllm:request_params_n_count").values()) == 1
    assert sum(bench.shown("vllm:request_params_n_sum").values()) == 3


def test_a_slow_rank_gets_less() -> None:
    """A rank that has long answers to give is passed over until others have as many."""
    bench = Bench(2)
    for _ in range(4):
        bench.ask(rank=0, tokens=500)
    placed = []
    for turn in range(8):
        bench.clock.run(until_us=(turn + 1) * 400_000)
        placed.append(bench.ask(tokens=2).sequences[0].rank)
    assert placed == [1] * 8


def test_each_rank_has_a_prefix_cache_of_its_own() -> None:
    """What one rank has computed another has not."""
    bench = Bench(2)
    for rank in (0, 0, 1):
        bench.ask(rank=rank, prompt=[7] * 64)
        bench.clock.run()
    assert [record.cached_tokens for record in bench.server.metrics.requests.newest()] == [0, 48, 0]
    assert bench.shown("vllm:prefix_cache_hits_total") == {"0": 48, "1": 0}
    assert [len(rank.engine.cached_blocks) > 0 for rank in bench.server.ranks] == [True, True]
    assert bench.server.reset_prefix_cache(reset_running_requests=False)
    assert [rank.engine.cached_blocks for rank in bench.server.ranks] == [[], []]


def test_each_rank_has_slots_of_its_own() -> None:
    """Twice the slots, and a queue in front of each."""
    bench = Bench(2, scheduling={"maxNumSeqs": 2})
    for _ in range(6):
        bench.ask()
    bench.clock.run(until_us=50_000)
    assert bench.shown("vllm:num_requests_running") == {"0": 2, "1": 2}
    assert bench.shown("vllm:num_requests_waiting") == {"0": 1, "1": 1}
    assert (bench.server.running, bench.server.waiting) == (4, 2)


def test_an_abort_finds_the_rank() -> None:
    """By the client, by id, and of all."""
    bench = Bench(2)
    first, second, third, fourth = (bench.ask() for _ in range(4))
    second.abandon()
    assert bench.server.abort([third.sequences[0].id]) == 1
    assert bench.server.abort(None) == 2
    bench.clock.run()
    assert [one.sequences[0].finish_reason for one in (first, second, third, fourth)] == ["abort"] * 4
    assert (bench.server.running, bench.server.waiting) == (0, 0)
    assert [bench.ask().sequences[0].rank for _ in range(4)] == [0, 1, 0, 1]


def test_ranks_differ_in_what_is_random() -> None:
    """A seed does not make the ranks of a server alike, and yet every run is."""
    spread = {**TIMES, "timeToFirstTokenStdDev": "30ms"}

    def first_tokens() -> list[list[int]]:
        bench = Bench(2, seed=7, profile={"simple": spread})
        asked = [[bench.ask(rank=rank) for _ in range(5)] for rank in (0, 1)]
        bench.clock.run()
        return [[one.sequences[0].first_token_us for one in of_rank] for of_rank in asked]

    one, other = first_tokens()
    assert one != other
    assert [one, other] == first_tokens()


async def test_a_pause_holds_up_all_of_them() -> None:
    bench = Bench(2)
    await bench.server.standby.pause(PauseMode.KEEP, clear_cache=False)
    for _ in range(4):
        bench.ask()
    bench.clock.run(until_us=1_000_000)
    assert bench.shares == [0, 0]
    bench.server.standby.resume()
    bench.clock.run()
    assert bench.shares == [2, 2]


async def test_all_of_them_drain() -> None:
    bench = Bench(2)
    for _ in range(2):
        bench.ask()
    await bench.server.shut_down(0)
    assert bench.shares == [1, 1]
    assert bench.ask().sequences[0].finish_reason == "abort"


@pytest.mark.parametrize(
    ("placed", "ranks"),
    [({"rank": 2}, ["2"]), ({"startRank": 2, "size": 2}, ["2", "3"])],
)
def test_a_server_of_some_of_the_ranks_tells_their_numbers(placed: dict[str, Any], ranks: list[str]) -> None:
    """External and hybrid load balancing: requests name a rank by its place among those of the server."""
    bench = Bench(4, localRanks=placed)
    generation = bench.ask(rank=len(ranks) - 1)
    bench.clock.run()
    assert generation.sequences[0].rank == int(ranks[-1])
    assert list(bench.shown("vllm:num_requests_running")) == ranks
    assert bench.shown("vllm:generation_tokens_total")[ranks[-1]] == 10
    assert bench.server.fingerprint.startswith("vllm-0.33.0-dp4-")
