"""The data-parallel ranks that share a server's API: engines, each with sequences, blocks and KV events of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as List
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ghostfleet_simulator.config import Lora, Profile, ServerConfig
from ghostfleet_simulator.engine.adapters import Adapter, Place
from ghostfleet_simulator.engine.balancer import Balancer
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.engine.transfer import Incoming
from ghostfleet_simulator.faults.events import EventFaults
from ghostfleet_simulator.faults.transfers import TransferFaults
from ghostfleet_simulator.metrics.engine import EngineMetrics
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.runtime.clock import Clock
from ghostfleet_simulator.runtime.driver import Driver, Observer
from ghostfleet_simulator.runtime.outbox import Outbox

if TYPE_CHECKING:
    import zmq

    from ghostfleet_simulator.kv_events.publisher import Publisher
    from ghostfleet_simulator.runtime.exchange import Exchange
    from ghostfleet_simulator.transfer.params import Roles

_NEAREST_FIRST: Final = list(Place)


@dataclass(frozen=True, slots=True)
class Rank:
    """One engine, and what belongs to it."""

    number: int
    """The data-parallel rank."""
    engine: Engine
    driver: Driver
    metrics: EngineMetrics
    kv_events: Publisher | None
    """What publishes its KV events, where that is wanted."""
    exchange: Exchange | None
    """What sees to KV cache that goes to other servers and comes from them, where that can be."""


class Ranks:
    """The engines of one server, as if they were one: what is asked for is done in all of them.

    A sequence goes to one: to the rank that its request names, else to the one that vLLM's load balancing chooses.
    """

    def __init__(
        self,
        config: ServerConfig,
        clock: Clock,
        outbox: Outbox,
        metrics: ServerMetrics,
        event_faults: EventFaults,
        transfer_faults: TransferFaults,
        environ: Mapping[str, str],
        kv_context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        """Opens the sockets for KV events, in a context of their own or a given one.

        Raises `OSError` where one cannot be bound.
        """
        self._clock = clock
        self._balancer = _balancer(config, len(metrics.engines))
        self._ranks: list[Rank] = []
        with ExitStack() as stack:
            for index, reports in enumerate(metrics.engines):
                publisher = _publisher(config, reports.rank, event_faults, metrics, environ, kv_context)
                if publisher is not None:
                    stack.callback(publisher.close)
                # Each of vLLM's engines is a process, with random bytes of its own.
                engine = Engine(config, rank=reports.rank, entropy=os.urandom(32))
                observer: Observer = _Watcher(reports, self._balancer, index) if self._balancer else reports
                driver = Driver(engine, clock, observer, outbox, publisher.publish if publisher else None)
                exchange = _exchange(config, driver, reports, transfer_faults, environ)
                if exchange is not None:
                    driver.attach(exchange)
                    exchange.watch(engine.transfers)
                self._ranks.append(Rank(reports.rank, engine, driver, reports, publisher, exchange))
            stack.pop_all()  # they stay open
        self._first = self._ranks[0].number
        self._drivers = [rank.driver for rank in self._ranks]

    def __iter__(self) -> Iterator[Rank]:
        return iter(self._ranks)

    def __len__(self) -> int:
        return len(self._ranks)

    def start(self) -> None:
        """Begin to answer those who ask for KV events again."""
        for rank in self._ranks:
            if rank.kv_events is not None:
                rank.kv_events.start()

    def close(self, *, abruptly: bool) -> None:
        """Close the sockets for KV events, and give up transfers; `abruptly`: events not sent yet are lost."""
        for rank in self._ranks:
            if rank.exchange is not None:
                rank.exchange.close()
            if rank.kv_events is not None:
                rank.kv_events.close(abruptly=abruptly)

    # --- other servers ---------------------------------------------------------------------------

    @property
    def exchanges(self) -> list[Exchange]:
        """What sees to transfers in each of the engines, if anything does."""
        return [rank.exchange for rank in self._ranks if rank.exchange is not None]

    def roles(self, params: Mapping[str, Any] | None, name: str) -> Roles:
        """What a sequence has to do with other servers; without a connector it can only be told to pretend."""
        exchange = self._ranks[0].exchange
        if exchange is not None:
            return exchange.roles(params, name)
        return Incoming() if params and params.get("do_remote_prefill") else None, None

    def transfer_params(self, seq: Sequence) -> dict[str, Any] | None:
        """The `kv_transfer_params` of an answer."""
        exchange = self._ranks[seq.rank - self._first].exchange
        return None if exchange is None else exchange.protocol.answer(seq)

    async def end_transfers(self) -> None:
        """Give up what is under way."""
        await asyncio.gather(*(exchange.stop() for exchange in self.exchanges))

    # --- sequences -------------------------------------------------------------------------------

    @property
    def sequences(self) -> list[Sequence]:
        """Every sequence that has not ended."""
        return [seq for driver in self._drivers for seq in driver.sequences]

    def hash_ahead(self, sequences: List[Sequence]) -> Iterator[bytes]:
        """Hash the prompts of sequences before they are submitted, a block with every item.

        Not where engines hash differently: which of them a sequence goes to is only known when it is submitted.
        """
        if len({rank.engine.hash_root for rank in self._ranks}) > 1:
            return iter(())
        return self._ranks[0].engine.hash_ahead(sequences)

    def submit(self, sequences: List[Sequence], asked: int | None = None) -> None:
        """Queue sequences, all of them at one moment; `asked` is the place of an engine among those of the server."""
        if self._balancer is None:
            for seq in sequences:
                seq.rank = self._first
            self._drivers[0].submit(*sequences)
            return
        now_us = self._clock.now_us()
        shares: dict[int, list[Sequence]] = {}
        for seq in sequences:
            index = self._choose(asked, now_us)
            seq.rank = self._first + index
            shares.setdefault(index, []).append(seq)
        for index, share in shares.items():
            self._drivers[index].submit(*share)
            engine = self._ranks[index].engine
            self._balancer.told(index, engine.waiting, engine.running, engine.kv_usage, now_us)

    def refuse(self, sequences: int, asked: int | None = None) -> None:
        """Count sequences that engines turn away because generation is paused."""
        for _ in range(sequences):
            index = self._choose(asked, self._clock.now_us())
            self._ranks[index].metrics.on_refused()
            if self._balancer is not None:
                self._balancer.ended(index)

    def _choose(self, asked: int | None, now_us: int) -> int:
        if self._balancer is None:
            return 0
        if asked is None:
            return self._balancer.choose(now_us)
        self._balancer.pin(asked)
        return asked

    def _driver_of(self, seq: Sequence) -> Driver:
        return self._drivers[seq.rank - self._first]

    def abandon(self, seq: Sequence) -> None:
        """End a sequence whose client is gone."""
        self._driver_of(seq).abandon(seq)

    def end(self, seq: Sequence, stop_reason: str) -> None:
        """End a sequence because its text has come to a stop string."""
        self._driver_of(seq).end(seq, stop_reason)

    def prompt_done(self, last: Sequence, n: int, most_tokens: int) -> None:
        """Said when the last of a prompt's `n` answers has ended; the longest had `most_tokens` tokens."""
        self._driver_of(last).prompt_done(n, most_tokens)

    def abort(self, chosen: Callable[[Sequence], bool]) -> None:
        """End the chosen sequences at the wish of an operator."""
        for driver in self._drivers:
            driver.abort(chosen)

    def abort_all(self) -> None:
        """End every sequence; its output is told that it finished, with finish reason `abort`."""
        for driver in self._drivers:
            driver.abort_all()

    # --- what all of them do ---------------------------------------------------------------------

    async def idle(self, seconds: float | None = None) -> None:
        """Wait until no sequence is left that could go on, at most `seconds`."""
        await asyncio.gather(*(driver.idle(seconds) for driver in self._drivers))

    def pause(self, *, freeze: bool) -> None:
        """Admit nobody until `resume`; with `freeze` what runs stands still."""
        for driver in self._drivers:
            driver.pause(freeze=freeze)

    def resume(self) -> None:
        """Go on after `pause`."""
        for driver in self._drivers:
            driver.resume()

    def stop(self) -> None:
        """Take no more sequences: each one ends at once with finish reason `abort`."""
        for driver in self._drivers:
            driver.close()

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        """Forget the prefix caches; whether the first of them was forgotten, which is what vLLM answers."""
        done = [driver.reset_prefix_cache(reset_running_requests=reset_running_requests) for driver in self._drivers]
        return done[0]

    def use(self, profile: Profile) -> None:
        """Take over a profile between two steps."""
        for driver in self._drivers:
            driver.use(profile)

    def use_lora(self, lora: Lora) -> None:
        """Take over how many LoRA adapters there can be."""
        for driver in self._drivers:
            driver.use_lora(lora)

    def load_adapter(self, adapter: Adapter, *, anew: bool) -> int:
        """Load an adapter; after how many microseconds it is there in all of them."""
        return max(driver.load_adapter(adapter, anew=anew) for driver in self._drivers)

    def place_adapter(self, adapter: Adapter) -> None:
        """Have an adapter loaded without any time passing."""
        for driver in self._drivers:
            driver.place_adapter(adapter)

    def adapter_place(self, adapter: Adapter) -> Place:
        """The nearest place in which an adapter lies."""
        return min((driver.adapter_place(adapter) for driver in self._drivers), key=_NEAREST_FIRST.index)


class _Watcher:
    """Passes on what a driver tells, and tells the balancer what vLLM's would hear of it."""

    def __init__(self, metrics: EngineMetrics, balancer: Balancer, index: int) -> None:
        self._metrics, self._balancer, self._index = metrics, balancer, index
        self.on_first_token = metrics.on_first_token
        self.on_prompt_done = metrics.on_prompt_done
        self.on_wake = metrics.on_wake

    def on_step(self, step: Step, now_us: int, running: int, waiting: int, deferred: int, kv_usage: float) -> None:
        self._metrics.on_step(step, now_us, running, waiting, deferred, kv_usage)
        self._balancer.told(self._index, waiting + deferred, running, kv_usage, now_us)

    def on_finished(self, seq: Sequence, now_us: int) -> None:
        self._metrics.on_finished(seq, now_us)
        self._balancer.ended(self._index)

    def on_aborted(self, seq: Sequence, now_us: int) -> None:
        self._metrics.on_aborted(seq, now_us)
        self._balancer.ended(self._index)


def _balancer(config: ServerConfig, engines: int) -> Balancer | None:
    conduct = config.engine.conduct
    if engines == 1:
        return None
    return Balancer(engines, counts_in_flight=conduct.balances_by_flight, takes_turns=conduct.balances_in_turn)


def _exchange(
    config: ServerConfig, driver: Driver, reports: EngineMetrics, faults: TransferFaults, environ: Mapping[str, str]
) -> Exchange | None:
    if reports.transfers is None:
        return None
    from ghostfleet_simulator.runtime.exchange import Exchange  # noqa: PLC0415 - an HTTP client, only where needed

    return Exchange(config, driver, reports.transfers, faults, rank=reports.rank, environ=environ)


def _publisher(
    config: ServerConfig,
    rank: int,
    faults: EventFaults,
    metrics: ServerMetrics,
    environ: Mapping[str, str],
    context: zmq.Context[zmq.Socket[bytes]] | None,
) -> Publisher | None:
    if metrics.kv_events is None:
        return None
    from ghostfleet_simulator.kv_events.publisher import Publisher  # noqa: PLC0415 - ZeroMQ loads only where needed

    return Publisher(config, faults, metrics.kv_events, rank=rank, environ=environ, context=context)
