"""KV cache that goes from this server to others and comes here from them: who asks whom, and when.

The engine knows blocks and times, `transfer.params` the words of the connectors; this joins them with the side channel.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

from ghostfleet_simulator.config import LoadFailurePolicy, ServerConfig
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.engine.transfer import Happened, Hold, Stage, Transfers
from ghostfleet_simulator.faults.transfers import TransferFaults
from ghostfleet_simulator.metrics.transfer import TransferMetrics
from ghostfleet_simulator.runtime.driver import Driver
from ghostfleet_simulator.transfer.params import Protocol, Roles, Source, lease_seconds, named_by_blocks
from ghostfleet_simulator.transfer.peers import Peers, Unfetched

_EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104 - what a server may listen on
_MOST_UNWANTED: Final = 4096
_log = logging.getLogger("ghostfleet.transfer")


class Exchange:
    """The transfers of one server. All of it happens on the event loop."""

    def __init__(
        self,
        config: ServerConfig,
        driver: Driver,
        metrics: TransferMetrics,
        faults: TransferFaults,
        *,
        rank: int = 0,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        settings, listen = config.kv_transfer, config.listen
        self._settings = settings
        self._driver = driver
        self._metrics = metrics
        self._faults = faults
        self._block_bytes = config.kv_cache.block_size * config.kv_cache.bytes_per_token.bytes
        conduct = config.engine.conduct
        self._named = conduct.names_pulled_requests
        self._leases = conduct.leases_blocks
        self._lease_s = lease_seconds(settings, conduct)
        self._compression = float(config.clock.compression)
        own = "127.0.0.1" if listen.host in _EVERYWHERE else listen.host
        shift = config.ranks[0] if settings.at_bootstrap else rank
        self.port = settings.port + shift + listen.kv_events_port_offset
        """Port of the side channel."""
        self.rank = rank
        host = listen.kv_side_channel_host or environ.get("POD_IP") or own
        name = listen.kv_engine_id or str(uuid.uuid4())
        self.protocol = Protocol(settings, conduct, f"{name}_dp{rank}" if rank else name, host, self.port)
        self._peers = Peers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: dict[Sequence, asyncio.Task[None]] = {}
        """Those whose other side has not begun to send."""
        self._arrivals: dict[Sequence, asyncio.Future[None]] = {}
        self._departures: dict[str, asyncio.Future[None]] = {}
        self._awaited: defaultdict[str, list[asyncio.Future[bool]]] = defaultdict(list)
        """Who waits for what is not held yet; True: it is."""
        self._unwanted: OrderedDict[str, None] = OrderedDict()
        """What nobody will come for, though it is not held yet."""
        self._waiting: dict[Sequence, Source] = {}
        """Those whose other side is told that they are still wanted."""
        self._beating: asyncio.Task[None] | None = None
        self._stopped = False

    def watch(self, transfers: Transfers | None) -> None:
        """Say what the metrics show the stages of."""
        self._metrics.watch(transfers)

    # --- requests --------------------------------------------------------------------------------

    def roles(self, params: Mapping[str, Any] | None, name: str) -> Roles:
        """What a sequence fetches and what will be fetched of it, by the parameters of its request."""
        return self.protocol.roles(params, f"{name}-{secrets.token_hex(4)}")

    def queued(self, seq: Sequence) -> None:
        """A sequence was queued; the other side keeps for it what it holds."""
        if self._leases and seq.incoming is not None and not seq.incoming.source.early:
            self._waiting[seq] = seq.incoming.source
            if self._beating is None:
                self._beating = self._spawn(self._beat())

    def gone(self, seq: Sequence) -> None:
        """A sequence is about to be aborted."""
        self._waiting.pop(seq, None)
        incoming = seq.incoming
        if incoming is not None and incoming.stage is Stage.WAITING_TO_START:
            self._spawn(self._let_go(incoming.source))
        if (asking := self._asking.get(seq)) is not None:
            asking.cancel()
        if seq.outgoing is not None:
            self._tell_awaited(seq.outgoing.key, held=False)

    def on_step(self, step: Step) -> None:
        """A step was made."""
        for seq in step.finished:
            if seq.outgoing is not None and seq.outgoing.block_ids is None:
                self._tell_awaited(seq.outgoing.key, held=False)
        for seq in step.dismissed:
            self.gone(seq)
        if step.happened is not None:
            self._on_happened(step.happened)

    def _on_happened(self, happened: Happened) -> None:
        for seq in happened.wanted:
            self._asking[seq] = self._spawn(self._pull(seq))
        for seq in happened.refused:
            self._spawn(self._let_go(seq.incoming.source if seq.incoming else None))
        for seq in happened.arrived:
            _resolve(self._arrivals.get(seq))
        for key in happened.held:
            if key in self._unwanted:
                del self._unwanted[key]
                self._driver.release(key)
            else:
                self._tell_awaited(key, held=True)
        for key in happened.sent:
            _resolve(self._departures.get(key))
        for key in happened.expired:
            _log.warning("Releasing expired KV blocks for request %s, which nobody has fetched", key)
            self._metrics.on_expired()
            _resolve(self._departures.get(key))

    def _tell_awaited(self, key: str, *, held: bool) -> None:
        for future in self._awaited.pop(key, ()):
            if not future.done():
                future.set_result(held)

    # --- what comes here -------------------------------------------------------------------------

    async def _pull(self, seq: Sequence) -> None:
        incoming = seq.incoming
        assert incoming is not None  # noqa: S101 - for the type checker; the engine wants nothing else
        source: Source = incoming.source
        trouble = self._faults.decide()
        try:
            if trouble.delay:
                await asyncio.sleep(trouble.delay / self._compression)
            if trouble.fails:
                self._fail(seq, "an injected failure")
                return
            await self._peers.fetch(source, incoming.blocks, self._lease_s / self._compression)
        except Unfetched as error:
            self._fail(seq, error)
            return
        except asyncio.CancelledError:  # its client has gone away
            self._driver.pull_failed(seq, fail=False)
            if not self._stopped:
                self._spawn(self._let_go(source))
            return
        finally:
            self._asking.pop(seq, None)
            self._waiting.pop(seq, None)
        began_us = self._driver.now_us()
        arrival = self._arrivals[seq] = asyncio.get_running_loop().create_future()
        size = incoming.blocks * self._block_bytes
        try:
            self._driver.begin_pull(seq, size)
            await arrival
            await self._peers.done(source)
        except Unfetched as error:
            self._fail(seq, error)
            return
        finally:
            del self._arrivals[seq]
        self._metrics.on_received(size, incoming.blocks, self._driver.now_us() - began_us)
        self._driver.pulled(seq)

    def _fail(self, seq: Sequence, error: Unfetched | str) -> None:
        fails = self._settings.kv_load_failure_policy is LoadFailurePolicy.FAIL
        what = "failing the request" if fails else "computing its prompt here"
        _log.error("KV transfer for %s failed, %s: %s", seq.id, what, error)
        self._metrics.on_failed()
        self._driver.pull_failed(seq, fail=fails)

    async def _let_go(self, source: Source | None) -> None:
        """Tell the other side that nobody will come."""
        if source is None:
            return
        try:
            await self._peers.done(source)
        except Unfetched as error:
            _log.warning("%s was not told that %s is not needed: %s", source.address, source.key, error)
            self._metrics.on_unnotified()

    async def _beat(self) -> None:
        """Heartbeats, as long as anything waits for what others hold."""
        try:
            while self._waiting:
                wanted: defaultdict[str, list[str]] = defaultdict(list)
                for source in self._waiting.values():
                    wanted[source.address].append(source.key)
                for address, keys in wanted.items():
                    try:
                        await self._peers.heartbeat(address, keys)
                    except Unfetched as error:
                        _log.warning("Failed to send heartbeat: %s", error)
                await asyncio.sleep(self._lease_s / 6 / self._compression)
        finally:
            self._beating = None

    # --- what goes from here: said by others on the side channel -----------------------------------

    async def fetched(self, key: str, engine_id: str | None, blocks: int, *, early: bool) -> str | None:
        """Begin to send; returns what is wrong with the wish, if anything."""
        key = self._own(key)
        if engine_id is not None and engine_id != self.protocol.engine_id:
            return f"the engine here is {self.protocol.engine_id}, not {engine_id}"
        if self._hold(key) is None:
            if early and not await self._comes(key):
                return f"no blocks came to be held for {key!r}: it is not known, or has ended otherwise"
            if not early:
                # A read of memory that was given to others succeeds, in vLLM too; see `done`.
                _log.warning("Blocks of %s are asked for, which are not held", key)
        self._departures[key] = asyncio.get_running_loop().create_future()
        self._driver.send(key, blocks * self._block_bytes)
        return None

    async def _comes(self, key: str) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._awaited[key].append(future)
        try:
            return await asyncio.wait_for(future, self._lease_s / self._compression)
        except TimeoutError:
            return False
        finally:
            if future in (waiting := self._awaited.get(key, [])):
                waiting.remove(future)
                if not waiting:
                    del self._awaited[key]

    async def done(self, key: str) -> bool:
        """Let go what is held, once it is sent; whether it was held still."""
        key = self._own(key)
        departure = self._departures.pop(key, None)
        if self._hold(key) is None:
            if departure is not None:
                _log.error("Potentially invalid KV blocks for unrecognized request %s were retrieved", key)
                self._metrics.on_late_notification()
            else:
                self._unwanted[key] = None
                if len(self._unwanted) > _MOST_UNWANTED:
                    self._unwanted.popitem(last=False)
            return False
        if departure is not None:
            await departure
        held = self._hold(key) is not None
        self._driver.release(key)
        return held

    def heartbeat(self, keys: Iterable[str]) -> None:
        """These are still wanted: vLLM prolongs their lease by two thirds of it."""
        self._driver.renew([self._own(key) for key in keys], round(self._lease_s * 2 / 3 * 1e6))

    def knows(self, key: str) -> bool:
        """Whether blocks of that name are or were asked for here, or are held."""
        return key in self._departures or self._own(key) in self._driver.holds

    def _own(self, key: str) -> str:
        """The key of what the other side may have to call by its blocks."""
        if self._named:
            return key
        return next((own for own, hold in self._driver.holds.items() if named_by_blocks(hold.blocks) == key), key)

    def _hold(self, key: str) -> Hold | None:
        return self._driver.holds.get(key)

    @property
    def entry(self) -> dict[str, Any]:
        """What Mooncake's bootstrap tells of this engine: its name, and where its workers are."""
        address = f"{self.protocol.host}:{self.port}"
        return {"engine_id": self.protocol.engine_id, "worker_addr": {"0": {"0": address}}}

    def told(self) -> dict[str, Any]:
        """What the admin API tells."""
        return {
            "engineId": self.protocol.engine_id,
            "sideChannelPort": self.port,
            "held": len(self._driver.holds),
            "fetching": len(self._asking) + len(self._arrivals),
        }

    # --- life ------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Give up what is under way; nobody is told."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        """Give up what is under way, and close the connections to others."""
        tasks = list(self._tasks)
        self.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._peers.close()


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
