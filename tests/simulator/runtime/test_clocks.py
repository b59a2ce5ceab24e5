"""One engine on every clock: what a server did in real time it does again, token for token, on the virtual clock."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from tests.simulator.engine.drive import Answer

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.problems import InvalidInput
from ghostfleet_simulator.runtime.clock import Clock, VirtualClock, WallClock
from ghostfleet_simulator.runtime.driver import Driver
from ghostfleet_simulator.runtime.outbox import Outbox
from ghostfleet_simulator.runtime.server import SimulatedServer

LATENESS_US = 250_000
"""More than a wake-up is ever late on a machine that does other things too."""

NOISE = {"step": {"sigma": "0.05"}, "stall": {"probability": "5%", "meanFraction": "0.5"}, "request": {"mean": "1ms"}}
PROFILES: dict[str, dict[str, Any]] = {
    "simple": {"simple": {"timeToFirstToken": "25ms", "interTokenLatency": "7500us"}},
    "steps": {
        "backend": "StepTime",
        "stepTime": {"baseUs": 4000, "perTokenUs": 30, "perSeqUs": 200},
        "noise": NOISE,
        "api": {"overhead": "2ms"},
    },
    "roofline": {"backend": "Roofline", "roofline": {"model": "Llama-3.1-8B", "gpu": "H100-SXM"}, "noise": NOISE},
}


def config(profile: dict[str, Any], **blocks: Any) -> ServerConfig:
    return ServerConfig.model_validate({"model": {"name": "m"}, "profile": profile, **blocks})


@dataclass
class Recording:
    """What came out of a run: tokens as (sequence, number) in order, their times, and every due time that was set."""

    tokens: list[tuple[str, int]] = field(default_factory=list)
    times_us: list[int] = field(default_factory=list)
    due_us: dict[str, list[int]] = field(default_factory=dict)
    arrivals: list[Sequence] = field(default_factory=list)


class Output:
    """Notes every token of a sequence."""

    def __init__(self, recording: Recording, clock: Clock) -> None:
        self.recording, self.clock = recording, clock
        self.seq: Sequence

    def token(self) -> None:
        """Note a token."""
        self.recording.tokens.append((self.seq.id, self.seq.produced))
        self.recording.times_us.append(self.clock.now_us())
        self.recording.due_us.setdefault(self.seq.id, []).append(self.seq.due_us)

    def finish(self) -> None:
        """Note the last."""
        self.token()


def sequence(index: int, recording: Recording, clock: Clock) -> Sequence:
    output = Output(recording, clock)
    prompt = [index * 1000 + i for i in range(5 + 37 * index % 200)]
    seq = Sequence(str(index), prompt, Answer(20 + index % 7), clock.now_us(), owner=output)
    output.seq = seq
    recording.arrivals.append(seq)
    return seq


async def in_real_time(server: ServerConfig, requests: int, compression: int = 1) -> Recording:
    """Requests that come every 5 to 13 ms."""
    clock, recording = WallClock(compression=Fraction(compression)), Recording()
    driver = Driver(Engine(server), clock, ServerMetrics(server).engines[0], Outbox())
    for index in range(requests):
        driver.submit(sequence(index, recording, clock))
        await asyncio.sleep((5 + 3 * index % 8) / 1000)
    await driver.idle(30)
    clock.close()
    return recording


def on_the_virtual_clock(server: ServerConfig, recorded: Recording) -> Recording:
    """The same requests at the same times."""
    clock, recording = VirtualClock(recorded.arrivals[0].queued_us), Recording()
    driver = Driver(Engine(server), clock, ServerMetrics(server).engines[0], Outbox())
    for index, seq in enumerate(recorded.arrivals):
        clock.run(until_us=seq.queued_us)
        driver.submit(sequence(index, recording, clock))
    clock.run()
    return recording


@pytest.mark.parametrize("name", ["steps", "roofline"])
@pytest.mark.parametrize("compression", [1, 4])
async def test_a_real_run_of_steps_is_replayed_token_for_token(name: str, compression: int) -> None:
    """The same order, and each token at its time but for what the machine was late, noise and compression included."""
    server = config(PROFILES[name], scheduling={"maxNumSeqs": 8})
    real = await in_real_time(server, 25, compression)
    virtual = on_the_virtual_clock(server, real)
    assert len(real.tokens) == sum(seq.target for seq in real.arrivals)
    assert virtual.tokens == real.tokens
    late = [a - b for a, b in zip(real.times_us, virtual.times_us, strict=True)]
    assert min(late) >= 0
    assert max(late) < LATENESS_US * compression


async def test_a_real_run_of_requests_is_replayed_exactly_on_the_grid() -> None:
    """Every due time that was set is the same to the microsecond, however late the machine was."""
    server = config(PROFILES["simple"])
    real = await in_real_time(server, 25)
    virtual = on_the_virtual_clock(server, real)
    assert virtual.due_us == real.due_us
    due = dict(zip(virtual.tokens, virtual.times_us, strict=True))
    late = [at - due[token] for token, at in zip(real.tokens, real.times_us, strict=True)]
    assert min(late) >= 0
    assert max(late) < LATENESS_US
    nominal = [due[token] for token in real.tokens]
    # A pass that is later than a gap gives no sequence two tokens, so only then the others may overtake it.
    assert nominal == sorted(nominal) or max(late) > 7500


async def test_the_answers_of_a_request_come_into_the_same_step() -> None:
    """They are queued at one moment, so also in real time no step begins between them."""
    server = config({"backend": "StepTime", "stepTime": {"baseUs": 2000}})
    clock, recording = WallClock(), Recording()
    driver = Driver(Engine(server), clock, ServerMetrics(server).engines[0], Outbox())
    driver.submit(*(sequence(index, recording, clock) for index in range(20)))
    await driver.idle(10)
    clock.close()
    assert recording.tokens[:20] == [(str(index), 1) for index in range(20)]
    assert len({seq.queued_us for seq in recording.arrivals}) == 1


async def test_a_compressed_clock_divides_every_wait() -> None:
    """Half a second of modelled time to a first token passes in a tenth of it; what is told is modelled time."""
    server = config({"simple": {"timeToFirstToken": "500ms"}}, clock={"compression": 10})
    clock, recording = WallClock(compression=Fraction(10)), Recording()
    metrics = ServerMetrics(server).engines[0]
    driver = Driver(Engine(server), clock, metrics, Outbox())
    begin = time.monotonic()
    driver.submit(sequence(0, recording, clock))
    await driver.idle(10)
    elapsed = time.monotonic() - begin
    clock.close()
    assert 0.05 <= elapsed < 0.05 + LATENESS_US / 1e6
    seq = recording.arrivals[0]
    assert 500_000 <= seq.first_token_us - seq.arrival_us < 500_000 + 10 * LATENESS_US
    assert metrics.measures.time_to_first_token.sum >= 500_000


@pytest.mark.parametrize("compression", ["1", "1.5", "997"])
async def test_the_alarm_of_a_wall_clock_never_rings_early(compression: str) -> None:
    """Whatever the compression; the present then is at or after the time that was set."""
    clock = WallClock(compression=Fraction(compression))
    rung = asyncio.Event()
    alarm = clock.alarm(rung.set)
    for wait_us in (1, 999, 5_000, 20_001):
        at_us = clock.now_us() + wait_us
        rung.clear()
        alarm.set(at_us)
        await asyncio.wait_for(rung.wait(), 5)
        assert at_us <= clock.now_us() < at_us + LATENESS_US * Fraction(compression)
    clock.close()


def test_a_compression_that_leaves_too_little_time_is_refused() -> None:
    """At the start and when a profile comes later; what is in force stays in force."""
    fast = {"simple": {"interTokenLatency": "4ms"}}
    with pytest.raises(InvalidInput, match=r"leaves 400us between two tokens .* less than clock.minStep=500us"):
        SimulatedServer(config(fast, clock={"compression": 10}), clock=VirtualClock())
    server = SimulatedServer(
        config({"simple": {"interTokenLatency": "20ms"}}, clock={"compression": 10}), clock=VirtualClock()
    )
    before = server.in_force
    with pytest.raises(InvalidInput, match=r"clock.compression: 10 leaves .* at most 8"):
        server.patch({"profile": fast})
    faster = config({"backend": "StepTime", "stepTime": {"baseUs": 3000}}, clock={"compression": 10})
    with pytest.raises(InvalidInput, match="at most 6"):
        server.offer(Document.of(faster, 5))
    assert server.in_force == before
    assert server.patch({"profile": {"simple": {"interTokenLatency": "5ms"}}}).revision == before.revision
