"""A server is an object: several live in one process; on a virtual clock a run takes no time and repeats exactly."""

from __future__ import annotations

from collections.abc import Callable

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.clock import VirtualClock
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Kind, Prompt, Sampling, Work
from ghostfleet_simulator.text.answer import Answer
from ghostfleet_simulator.text.tokenizer import Tokenizer


class Recorder:
    """An output that notes the time of every token."""

    def __init__(self, generation: Generation, seq: Sequence, now_us: Callable[[], int], times: list[int]) -> None:
        self._generation, self._seq, self._now_us, self._times = generation, seq, now_us, times

    def token(self) -> None:
        """Note a token."""
        self._times.append(self._now_us())

    def finish(self) -> None:
        """Note the last."""
        self._times.append(self._now_us())
        self._generation.ended(self._seq)


def server(ttft: str, seed: int = 0, tokenizer: Tokenizer | None = None) -> tuple[SimulatedServer, VirtualClock]:
    config = ServerConfig.model_validate(
        {
            "model": {"name": f"model-{ttft}"},
            "seed": seed,
            "profile": {
                "simple": {
                    "timeToFirstToken": ttft,
                    "interTokenLatency": "20ms",
                    "interTokenLatencyStdDev": "5ms",
                }
            },
        }
    )
    clock = VirtualClock()
    return SimulatedServer(config, clock=clock, tokenizer=tokenizer), clock


def work(max_tokens: int, n: int = 1) -> Work:
    prompt = Prompt("r", [1, 2, 3], Sampling(max_tokens, max_tokens, n=n))
    return Work(Kind.CHAT, "r", "m", (prompt,))


def play(one: SimulatedServer, clock: VirtualClock, requests: int = 5) -> list[list[int]]:
    """Times of the tokens of each request; one arrives every 30 ms."""
    result: list[list[int]] = []
    for index in range(requests):
        clock.run(until_us=index * 30_000)
        times: list[int] = []
        result.append(times)

        def output(
            generation: Generation,
            seq: Sequence,
            _answer: Answer,
            _prompt: Prompt,
            _index: int,
            times: list[int] = times,
        ) -> Recorder:
            return Recorder(generation, seq, one.now_us, times)

        one.generate(work(30), one.now_us(), output)
    clock.run()
    return result


def test_a_run_on_a_virtual_clock_repeats_bit_for_bit() -> None:
    """Lengths and times come from the seed alone; another seed gives another run."""
    assert play(*server("100ms")) == play(*server("100ms"))
    assert play(*server("100ms")) != play(*server("100ms", seed=1))


def test_virtual_time_passes_without_waiting() -> None:
    """An hour to the first token is over at once."""
    one, clock = server("1h")
    assert play(one, clock, 1)[0][0] == 3_600_000_000


def test_two_servers_in_one_process_share_nothing() -> None:
    """Neither metrics nor time nor configuration of one shows in the other, though they share a tokenizer."""
    tokenizer = Tokenizer()
    (one, one_clock), (other, other_clock) = server("10ms", tokenizer=tokenizer), server("20ms", tokenizer=tokenizer)
    play(one, one_clock)
    assert one.metrics.totals()["generationTokens"] > 0
    assert other.metrics.totals()["generationTokens"] == 0
    assert other_clock.now_us() == 0
    assert b"model-20ms" not in one.metrics.render()
    other.patch({"answers": {"mode": "Echo"}})
    assert one.in_force == type(one.in_force).start(Document.of(one.config))


def test_metrics_tell_the_virtual_times() -> None:
    """What a scraper sees is what the engine did: queue, first token and gaps."""
    one, clock = server("100ms")
    play(one, clock, 1)
    text = one.metrics.render().decode()
    assert 'vllm:time_to_first_token_seconds_sum{engine="0",model_name="model-100ms"} 0.1' in text.replace(
        'model_name="model-100ms",engine="0"', 'engine="0",model_name="model-100ms"'
    )
