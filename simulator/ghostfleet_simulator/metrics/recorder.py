"""Where a server reports what happens, and where a scraper reads it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from ghostfleet_simulator import __version__
from ghostfleet_simulator.config import Dialect, FailureType, Lora, ServerConfig
from ghostfleet_simulator.metrics.dialects import naming_of
from ghostfleet_simulator.metrics.engine import EngineMetrics
from ghostfleet_simulator.metrics.fake import fakes_of
from ghostfleet_simulator.metrics.families import Time
from ghostfleet_simulator.metrics.http import HttpMetrics
from ghostfleet_simulator.metrics.lora import LoraRequests
from ghostfleet_simulator.metrics.offload import OffloadMetrics, OffloadSeries
from ghostfleet_simulator.metrics.own import KVEventMetrics, OwnMetrics
from ghostfleet_simulator.metrics.process import ProcessMetrics
from ghostfleet_simulator.metrics.render import Exposition
from ghostfleet_simulator.metrics.requests import RequestLog, RequestRecord
from ghostfleet_simulator.metrics.sleep import SleepOperations
from ghostfleet_simulator.metrics.transfer import TransferMetrics, TransferSeries


def _created_wanted() -> bool:
    """prometheus_client's switch, which vLLM's users know: without it every counter has a `_created` series."""
    return os.environ.get("PROMETHEUS_DISABLE_CREATED_SERIES", "").lower() not in ("true", "1", "t")


class ServerMetrics:
    """All metrics of one server, and its last requests; `now` is wall time in seconds, for time stamps."""

    def __init__(self, config: ServerConfig, *, now: Time = time.time, with_created: bool | None = None) -> None:
        model, ranks = config.model.aliases[0], config.ranks
        naming = naming_of(config, ranks, now)
        vllm = config.engine.dialect is Dialect.VLLM
        process = ProcessMetrics(now)
        offload = OffloadSeries(now) if config.kv_cache.tiers else None
        transfers = TransferSeries(config, now) if config.kv_transfer.with_peers else None
        self.http = HttpMetrics(now)
        self.own = OwnMetrics(__version__, now)
        self.kv_events = KVEventMetrics(now) if config.kv_events.enabled else None
        self.requests = RequestLog()
        """The last requests that ended."""
        self._started_at = now()
        self._model = model
        self._rank = ranks[0] if len(ranks) == 1 else None
        self._now = now
        self._lora = LoraRequests(now)
        self._lora_exposed = not vllm
        """No more to be done, for it is exposed or has no name in the dialect."""
        self._fakes = fakes_of(naming, self._lora.series if vllm else None, now)
        refreshed = [*([process] if vllm else ()), naming, self._fakes]
        self.engines = [
            EngineMetrics(
                rank,
                model,
                measures,
                offload=OffloadMetrics(offload, (model, str(rank))) if offload else None,
                transfers=TransferMetrics(transfers, (model, str(rank))) if transfers else None,
                lora=self._lora,
                lateness=self.own.lateness,
                log=self.requests,
                now=now,
            )
            for rank, measures in zip(ranks, naming.measures, strict=True)
        ]
        """What each engine reports to, by rank."""

        def refresh() -> None:
            for one in refreshed:
                one.refresh()

        self._exposition = Exposition(
            [
                *(process.series if vllm else ()),
                *naming.series,
                *(offload.all if offload and vllm else ()),
                *(transfers.all if transfers and vllm else ()),
                *(self.http.series if vllm else ()),
                *self.own.series,
                *(self.kv_events.series if self.kv_events else ()),
            ],
            with_created=vllm and (_created_wanted() if with_created is None else with_created),
            refresh=refresh,
        )
        self.sleep_operations = SleepOperations(self._exposition.add, now)

    # --- requests --------------------------------------------------------------------------------

    def on_turned_away(self, limit: str) -> None:
        """A queue limit, one of `measures.QUEUE_LIMITS`, turned a request away."""
        self.engines[0].measures.refused[limit].value += 1

    def on_fault(self, fault: FailureType, request_id: str = "", model: str = "") -> None:
        """An injected failure befell a generation request."""
        self.count_fault(fault)
        self.requests.add(
            RequestRecord(request_id, model or self._model, self._now(), rank=self._rank, fault=fault.value)
        )

    def count_fault(self, fault: FailureType) -> None:
        """An injected failure befell something that is not among the last requests."""
        self.own.faults[fault].value += 1

    # --- the rest --------------------------------------------------------------------------------

    def on_http(
        self, handler: str, method: str, status: int, request_bytes: int, response_bytes: int, seconds: float
    ) -> None:
        """An HTTP response has ended. `handler` is the route's path, `none` for a path that has no route."""
        self.http.observe(handler, method, status, request_bytes, response_bytes, seconds)

    def on_sleep(self, state: str | None) -> None:
        """The engines are now `awake`, `weights_offloaded` or `discard_all`; for None vLLM shows none of them."""
        for engine in self.engines:
            for name, cell in engine.measures.sleep_state.items():
                cell.value = int(name == state)

    def fake(self, settings: Mapping[str, str]) -> None:
        """Have these series, and no others, show what they are told to; raises `InvalidInput`."""
        self._fakes.use(settings)
        if self._fakes.fakes(self._lora.series):
            self._expose_lora()

    def use_lora(self, lora: Lora) -> None:
        """Take over the adapters' settings; the metrics of adapters come with the first that lets there be some."""
        self._lora.max_loras = lora.max_loras
        if lora.on:
            self._lora.on = True
            self._expose_lora()

    def _expose_lora(self) -> None:
        if not self._lora_exposed:
            self._lora_exposed = True
            self._exposition.add(self._lora.series)

    def set_profile(self, revision: int, live_hash: str) -> None:
        """A configuration came into force."""
        self.own.set_profile(revision, live_hash)

    @property
    def uptime_seconds(self) -> float:
        """Time since the server was made."""
        return self._now() - self._started_at

    def totals(self) -> dict[str, int]:
        """Counters since the start: requests by finish reason and with a fault, and tokens."""
        totals = self.engines[0].totals()
        for engine in self.engines[1:]:
            for name, count in engine.totals().items():
                totals[name] += count
        return {**totals, "fault": int(sum(counter.value for counter in self.own.faults.values()))}

    def render(self) -> bytes:
        """The text exposition; its type is `render.CONTENT_TYPE`."""
        return self._exposition.render()
