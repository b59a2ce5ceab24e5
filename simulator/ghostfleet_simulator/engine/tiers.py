"""KV-cache tiers beside the GPU: what is offloaded to them, and what comes back.

Source: vLLM 0.33 v1/kv_offload (cpu/manager.py, tiering/manager.py) and the OffloadingConnector. Blocks are written
through to host memory, and from there to disk. A lookup goes on where that on the GPU ends; what is only on disk comes
to host memory first, so it costs both transfers. The caller says when steps end; nothing moves amid one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heappop, heappush
from itertools import count, takewhile

from ghostfleet_simulator.config import KVCache, KVTier, TierMedium
from ghostfleet_simulator.engine.cache_events import BlockRemoved, BlockStored, CacheEvent, Medium
from ghostfleet_simulator.engine.sequence import Sequence


class Tier:
    """One tier: blocks by hash, the one that was used last at the end, and the link over which they come and go.

    Transfers over a link follow each other. A block that is being written or read is not evicted.
    """

    def __init__(self, config: KVTier, block_bytes: int, events: list[CacheEvent] | None) -> None:
        self.capacity = config.capacity.bytes // block_bytes
        """In blocks."""
        self.medium = Medium.CPU if config.medium is TierMedium.CPU else Medium.STORAGE
        self._block_bytes = block_bytes
        self._read_rate, self._write_rate = config.read_rate, config.write_rate
        self._latency_us = config.delay.us
        self._free_us = 0.0
        """When the link has nothing more to do."""
        self._events = events
        self._ready: OrderedDict[bytes, None] = OrderedDict()
        self._writing: set[bytes] = set()
        self._readers: Counter[bytes] = Counter()

    def __contains__(self, block_hash: bytes) -> bool:
        """Whether a block can be read."""
        return block_hash in self._ready

    def expects(self, block_hash: bytes) -> bool:
        """Whether a block is being written."""
        return block_hash in self._writing

    def lacks(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Those of the blocks that are neither there nor on their way."""
        return [h for h in dict.fromkeys(hashes) if h not in self._ready and h not in self._writing]

    def reserve(self, hashes: list[bytes]) -> bool:
        """Make room for blocks that will be written; False, and nothing happens, where there is none to be had."""
        excess = len(self._ready) + len(self._writing) + len(hashes) - self.capacity
        if excess > 0:
            idle = (h for h in self._ready if not self._readers[h] and h not in hashes)
            evicted = [h for h, _ in zip(idle, range(excess), strict=False)]
            if len(evicted) < excess:
                return False
            for block_hash in evicted:
                del self._ready[block_hash]
            if self._events is not None:
                self._events.append(BlockRemoved(evicted, self.medium))
        self._writing.update(hashes)
        return True

    def written(self, hashes: Iterable[bytes]) -> None:
        """What was reserved is there."""
        for block_hash in hashes:
            self._writing.remove(block_hash)
            self._ready[block_hash] = None
            if self._events is not None:
                self._events.append(BlockStored([block_hash], None, (), 0, medium=self.medium))

    def hold(self, hashes: Iterable[bytes]) -> None:
        """Blocks are being read, and so used last."""
        for block_hash in hashes:
            self._readers[block_hash] += 1
            self._ready.move_to_end(block_hash)

    def let_go(self, hashes: Iterable[bytes]) -> None:
        """One reader of the blocks is done."""
        self._readers.subtract(hashes)

    def transfer(self, blocks: int, begin_us: int, *, reading: bool) -> int:
        """When that many blocks have come over the link, if it begins at `begin_us` at the earliest."""
        duration = blocks * self._block_bytes * 1e6 / (self._read_rate if reading else self._write_rate)
        self._free_us = max(self._free_us, begin_us) + duration
        return round(self._free_us + self._latency_us)


class _Kind(Enum):
    STORE = auto()
    LOAD = auto()
    CASCADE = auto()
    PROMOTION = auto()


@dataclass(order=True)
class _Job:
    done_us: int
    number: int
    kind: _Kind = field(compare=False)
    hashes: list[bytes] = field(compare=False)
    began_us: int = field(compare=False)
    seq: Sequence | None = field(compare=False, default=None)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer between GPU and host memory that has ended."""

    loads: bool
    bytes: int
    seconds: float


class Tiers:
    """The tiers of a server."""

    def __init__(self, cache: KVCache, events: list[CacheEvent] | None) -> None:
        self._block_bytes = cache.block_size * cache.bytes_per_token.bytes
        host, *rest = (Tier(tier, self._block_bytes, events) for tier in cache.tiers)
        self._host: Tier = host
        self._disk: Tier | None = rest[0] if rest else None
        self._offered: list[list[bytes]] = []
        """Blocks of the step that runs, which are written when it has ended."""
        self._jobs: list[_Job] = []
        self._numbers = count()
        self._loading: set[bytes] = set()
        """Blocks that are being brought to the GPU; who wants them too will find them there."""
        self._promoted: set[bytes] = set()
        """Blocks that came from disk and have not been read since."""
        self.ended: list[Transfer] = []
        """Transfers since the caller emptied this."""
        self.failures = 0
        """Writes to host memory for which there was no room, since the caller set it to 0."""

    @property
    def wake_us(self) -> int | None:
        """When a transfer ends next."""
        return self._jobs[0].done_us if self._jobs else None

    def offer(self, hashes: list[bytes]) -> None:
        """Have blocks written that the step that runs computes."""
        self._offered.append(hashes)

    def begin(self, now_us: int) -> None:
        """A step has ended: write what it computed."""
        for hashes in self._offered:
            wanted = self._host.lacks(hashes)
            if not wanted:
                continue
            if self._host.reserve(wanted):
                self._add(_Kind.STORE, wanted, now_us, self._host.transfer(len(wanted), now_us, reading=False))
            else:
                self.failures += 1
        self._offered.clear()

    def find(self, hashes: Iterable[bytes], now_us: int) -> tuple[list[bytes], bool]:
        """The first of the blocks, as far as they follow each other here, and whether they can be loaded at once.

        If not, they are on their way to host memory, and the caller asks again later.
        """
        host, disk = self._host, self._disk

        def here(block_hash: bytes) -> bool:
            return block_hash in host or host.expects(block_hash) or (disk is not None and block_hash in disk)

        found = list(takewhile(here, hashes))
        missing = host.lacks(found)
        if missing and disk is not None:
            host.hold(present := [h for h in found if h in host])  # not to be evicted for the sake of what follows them
            reserved = host.reserve(missing)
            host.let_go(present)
            if not reserved:  # what is in host memory has to do
                found = found[: found.index(missing[0])]
            else:
                disk.hold(missing)
                self._add(_Kind.PROMOTION, missing, now_us, disk.transfer(len(missing), now_us, reading=True))
        return found, all(block_hash in host and block_hash not in self._loading for block_hash in found)

    def load(self, seq: Sequence, hashes: list[bytes], now_us: int) -> int:
        """Bring blocks to the GPU for a sequence; returns how many of them had come from disk."""
        self._host.hold(hashes)
        self._loading.update(hashes)
        self._add(_Kind.LOAD, hashes, now_us, self._host.transfer(len(hashes), now_us, reading=True), seq)
        from_disk = self._promoted.intersection(hashes)
        self._promoted -= from_disk
        return len(from_disk)

    def settle(self, now_us: int) -> tuple[bool, list[Sequence]]:
        """End what is due: whether there was anything, and the sequences whose blocks are on the GPU now."""
        loaded: list[Sequence] = []
        jobs = self._jobs
        if not jobs or jobs[0].done_us > now_us:
            return False, loaded
        while jobs and jobs[0].done_us <= now_us:
            job = heappop(jobs)
            match job.kind:
                case _Kind.STORE:
                    self._host.written(job.hashes)
                    self._cascade(job)
                case _Kind.CASCADE if self._disk is not None:
                    self._host.let_go(job.hashes)
                    self._disk.written(job.hashes)
                case _Kind.PROMOTION if self._disk is not None:
                    self._disk.let_go(job.hashes)
                    self._host.written(job.hashes)
                    self._promoted.update(job.hashes)
                case _Kind.LOAD:
                    self._host.let_go(job.hashes)
                    self._loading.difference_update(job.hashes)
                    if job.seq is not None:
                        loaded.append(job.seq)
            if job.kind in (_Kind.STORE, _Kind.LOAD):
                size, seconds = len(job.hashes) * self._block_bytes, (job.done_us - job.began_us) / 1e6
                self.ended.append(Transfer(job.kind is _Kind.LOAD, size, seconds))
        return True, loaded

    def _cascade(self, job: _Job) -> None:
        if self._disk is None:
            return
        wanted = self._disk.lacks(job.hashes)
        if wanted and self._disk.reserve(wanted):
            self._host.hold(wanted)
            end_us = self._disk.transfer(len(wanted), job.done_us, reading=False)
            self._add(_Kind.CASCADE, wanted, job.done_us, end_us)

    def _add(self, kind: _Kind, hashes: list[bytes], began_us: int, done_us: int, seq: Sequence | None = None) -> None:
        heappush(self._jobs, _Job(done_us, next(self._numbers), kind, hashes, began_us, seq))
