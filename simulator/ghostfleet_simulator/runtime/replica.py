"""What one pod runs: a server or, where data-parallel ranks have ports of their own, one for each rank."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence as List
from heapq import merge
from itertools import islice

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document, InForce
from ghostfleet_simulator.metrics.requests import CAPACITY, RequestRecord
from ghostfleet_simulator.runtime.ranks import Rank
from ghostfleet_simulator.runtime.server import SimulatedServer


class Replica:
    """Servers with one document, which are told and asked as one; the API of each is its own.

    The first of them keeps the document over restarts, and performs the failures that befall the process.
    """

    def __init__(self, config: ServerConfig, servers: List[SimulatedServer]) -> None:
        """`servers` are those of `config.servers`."""
        self.config = config
        self.servers = servers

    @property
    def in_force(self) -> InForce:
        """The document that all of them run."""
        return self.servers[0].in_force

    def offer(self, document: Document) -> InForce:
        """Take over a whole document in all of them, as `SimulatedServer.offer` does, or in none."""
        for server in self.servers:
            server.offer(document)
        return self.in_force

    def patch(self, raw: object) -> InForce:
        """Take over some live fields in all of them, as `SimulatedServer.patch` does, or in none."""
        for server in self.servers:
            server.patch(raw)
        return self.in_force

    @property
    def ranks(self) -> list[Rank]:
        """The data-parallel ranks, by number."""
        return [rank for server in self.servers for rank in server.ranks]

    @property
    def unready(self) -> str:
        """Why it should get no traffic, as `SimulatedServer.unready` says it; nothing if all of them may get it."""
        return next((reason for server in self.servers if (reason := server.unready)), "")

    @property
    def flaps(self) -> bool:
        """Whether `unready` changes by itself."""
        return any(server.flaps for server in self.servers)

    @property
    def draining(self) -> bool:
        """Told to take no more traffic."""
        return self.servers[0].draining

    def totals(self) -> dict[str, int]:
        """Counters since the start, of all of them together."""
        totals: Counter[str] = Counter()
        for server in self.servers:
            totals.update(server.metrics.totals())
        return dict(totals)

    @property
    def requests(self) -> int:
        """How many answers have ended since the start."""
        return sum(server.metrics.requests.total for server in self.servers)

    def newest(self, limit: int = CAPACITY) -> list[RequestRecord]:
        """At most `limit` of the last requests, the one that ended last first."""
        logs = (server.metrics.requests.newest(limit) for server in self.servers)
        return list(islice(merge(*logs, key=lambda record: record.ended_at, reverse=True), limit))

    def start(self) -> None:
        """Say that they serve."""
        for server in self.servers:
            server.start(leads=server is self.servers[0])

    def drain(self) -> None:
        """Take no more traffic; running requests go on."""
        for server in self.servers:
            server.drain()

    async def shut_down(self, grace_seconds: float) -> None:
        """Drain all of them for at most `grace_seconds`, then abort what still runs."""
        await asyncio.gather(*(server.shut_down(grace_seconds) for server in self.servers))
