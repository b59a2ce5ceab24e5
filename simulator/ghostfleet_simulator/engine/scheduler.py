"""Who runs: slots, token budget, chunked prefill, blocks, prefix cache and preemption, as vLLM V1 does it.

Source: vLLM 0.33 v1/core/sched/scheduler.py and v1/core/kv_cache_manager.py. The scheduler decides what is computed in
a pass; when a pass happens and what it costs is the pacer's business.

Of asynchronous scheduling, vLLM's default, the moment is kept at which a block of an answer can be found in the prefix
cache: when the token after its last one is there. Not kept: that the slot of the next token is taken one step ahead,
and that a sequence that stops by a stop token is computed for one step more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from ghostfleet_simulator.config import FixedConfig, Lora, SchedulingPolicy
from ghostfleet_simulator.engine.adapters import Adapters
from ghostfleet_simulator.engine.blocks import BlockPool
from ghostfleet_simulator.engine.cache_events import CacheEvent
from ghostfleet_simulator.engine.hashing import BlockHasher
from ghostfleet_simulator.engine.loads import Loads
from ghostfleet_simulator.engine.prefix_cache import PrefixCache
from ghostfleet_simulator.engine.queues import WaitingQueue
from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.engine.tiers import Tiers
from ghostfleet_simulator.engine.transfer import Stage, Transfers


class Scheduler:
    """Waiting and running sequences over one block pool.

    Running sequences go before waiting ones. When blocks run out a running sequence is preempted: the one admitted
    last, or by the policy `Priority` the one with the highest priority number, of several the one that arrived last.
    It loses its blocks, waits and recomputes what the prefix cache does not hold. Nobody is admitted in a pass that
    preempted. Decoding sequences are served before prompts that are half computed.
    """

    def __init__(self, config: FixedConfig, entropy: bytes) -> None:
        """`entropy`: see `BlockHasher`."""
        scheduling, cache = config.scheduling, config.kv_cache
        self.max_num_seqs, self.budget = config.limits
        self.block_size = cache.block_size
        self.events: list[CacheEvent] | None = [] if config.kv_events.enabled and cache.enable_prefix_caching else None
        """What came into the prefix cache and went since the caller emptied this; None: nobody wants to know."""
        self.pool = BlockPool(
            cache.blocks, unhashed_first=config.engine.conduct.unhashed_blocks_first, events=self.events
        )
        self._cache = (
            PrefixCache(self.pool, BlockHasher(config, entropy), cache.block_size, self.events)
            if cache.enable_prefix_caching
            else None
        )
        self.tiers = Tiers(cache, self.events) if cache.tiers and self._cache is not None else None
        """Where blocks are offloaded to, if anywhere."""
        if self._cache is not None:
            self._cache.tiers = self.tiers
        self.transfers = Transfers(config.kv_transfer) if config.kv_transfer.with_peers else None
        """What is held for other servers and comes from them, if there can be any."""
        self._by_priority = scheduling.policy is SchedulingPolicy.PRIORITY
        self._chunked = scheduling.enable_chunked_prefill
        self._threshold = scheduling.long_prefill_token_threshold
        self._adaptive = scheduling.long_prefill_token_threshold_adaptive
        self._reserve = scheduling.reserve_full_isl
        self._watermark = int(float(scheduling.watermark) * cache.blocks)
        self._admissions = count()
        self.admitting = True
        """Waiting sequences are admitted; off while generation is paused (vLLM's PAUSED_NEW)."""
        self.adapters = Adapters()
        """The LoRA adapters of the running sequences, and where others lie."""
        self.waiting = WaitingQueue.of(scheduling.policy)
        self.deferred: set[Sequence] = set()
        """Those in the queue that were passed over because too many other adapters run; vLLM's `deferred_waiting`."""
        self._all_deferred = False
        """Nobody in the queue can be admitted before an adapter stops to run or another sequence comes."""
        self.running: dict[Sequence, None] = {}
        """In the order of admission."""
        self._loads = Loads(
            self.pool, self._cache, self.tiers, self.transfers, self.waiting, self.deferred, self.block_size
        )
        self.dismissed: list[Sequence] = []
        """Those that were not served because too little of their prompt is cached, since the caller emptied this."""
        self.fetching = 0
        """Waiting sequences that the last pass over the queue passed over because of blocks on their way."""
        self.prefilling: dict[Sequence, None] = {}
        """The running sequences whose prompt is not computed whole, in the order of admission."""
        self.chunks: dict[Sequence, tuple[int, int]] = {}
        """Parts of prompts computed since the caller cleared this: tokens that were there before, and in the part."""
        self.queried_tokens = 0
        """Tokens of sequences that were looked up in the prefix cache and admitted, since the caller set it to 0."""
        self.hit_tokens = 0
        """Those of them that were there. Neither counts the readmission of a preempted sequence."""
        self.loaded_tokens = self.loaded_from_disk = 0
        """Tokens of sequences that were admitted that came from a tier, and those of them that were on disk only."""
        self.pulled_tokens = 0
        """Tokens of sequences that were looked up that another server is to send."""

    @property
    def loading(self) -> dict[Sequence, None]:
        """The sequences that wait for blocks from a tier or from another server; they have a place for them."""
        return self._loads.sequences

    def fits(self, seq: Sequence) -> bool:
        """Whether the sequence could run to its end if it were alone; its last token is never computed."""
        return self._blocks_for(len(seq.prompt) + seq.target - 1) <= self.pool.usable

    @property
    def hash_root(self) -> bytes:
        """What the hashes of all sequences are chained to; nothing where no blocks are hashed."""
        return b"" if self._cache is None else self._cache.hash_root

    def hash_ahead(self, sequences: Iterable[Sequence]) -> Iterator[bytes]:
        """Hash the prompts of sequences that are not queued yet, a block with every item (v1/request.py does it there).

        Passes that look them up or store them are then as quick as those of sequences with short prompts.
        """
        if self._cache is not None:
            for seq in sequences:
                yield from self._cache.hash_ahead(seq)

    def add(self, seq: Sequence, now_us: int) -> None:
        """Queue a sequence."""
        seq.queued_us = now_us
        if self.transfers is not None:
            self.transfers.enter(seq)
        self.waiting.add(seq)
        self._all_deferred = False

    def use_lora(self, lora: Lora) -> None:
        """Take over how many adapters there can be."""
        self.adapters.use(lora)
        self._all_deferred = False

    def remove(self, seq: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks; what is in them stays in the prefix cache."""
        if seq.status is Status.RUNNING:
            if self._cache is not None and seq not in self.prefilling:
                self._cache.store(seq, seq.num_tokens - 1)
            self._release(seq)
        elif seq.status is not Status.FINISHED:
            self._loads.leave(seq)
        seq.status = Status.FINISHED

    def grow(self, sequences: list[Sequence]) -> list[Sequence]:
        """Make room for one more token of each of these decoding sequences, preempting if need be.

        All of their blocks are full. Returns the preempted ones, who may be among them.
        """
        in_turn = sorted(sequences, key=_order) if len(sequences) > 1 else sequences
        if self._cache is not None:
            for seq in in_turn:
                self._cache.store(seq, seq.num_tokens - 1)
        preempted: list[Sequence] = []
        for seq in in_turn:
            if seq.status is Status.RUNNING:  # not preempted for the sake of another one
                preempted += self._allocate(seq, seq.num_tokens)
                if seq.blocks:
                    seq.room = len(seq.blocks) * self.block_size - seq.num_tokens
        return preempted

    def prefill(self, budget: int, preempted: list[Sequence]) -> tuple[int, list[Sequence]]:
        """Continue the prompts that are being computed, within `budget` tokens.

        Returns the budget left and the sequences whose prompt is now complete; adds to `preempted`.
        """
        complete = []
        limit = self._longest_part()
        for seq in list(self.prefilling):
            if budget <= 0:
                break
            if seq not in self.prefilling:  # preempted for the sake of another one
                continue
            chunk = min(seq.num_tokens - seq.computed, limit, budget)
            victims = self._allocate(seq, seq.computed + chunk)
            # What a victim was given in this pass is not computed after all.
            budget += sum(self.chunks.pop(victim, (0, 0))[1] for victim in victims)
            preempted += victims
            if seq.status is Status.RUNNING:
                budget -= chunk
                if self._compute(seq, chunk):
                    complete.append(seq)
        return budget, [seq for seq in complete if seq.status is Status.RUNNING]

    def admit(self, budget: int, now_us: int) -> tuple[int, list[Sequence]]:
        """Admit waiting sequences in order while slots, budget and blocks last; the head blocks those behind it.

        Only one whose adapter finds no room beside those that run is overtaken, and keeps its place in the queue.
        A sequence is admitted only if the blocks for all its tokens are free, though it takes only those of its first
        chunk (vLLM's `scheduler_reserve_full_isl`). Returns the budget left and the admitted; those of them that are
        not in `prefilling` have their whole prompt computed.
        """
        admitted: list[Sequence] = []
        if self._all_deferred:
            return budget, admitted
        limit = self._longest_part()
        pool = self.pool
        passed_over: list[Sequence] = []
        while self.admitting and self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            seq = self.waiting.head
            if seq.lora is not None and not self.adapters.has_room_for(seq.lora):
                passed_over.append(self.waiting.pop())
                self.deferred.add(seq)
                continue
            held = len(seq.blocks)  # by one whose blocks came from a tier
            found = self._cache.find(seq) if self._cache is not None and seq.reads_prefix_cache and not held else []
            # What came from another server may be the whole prompt, whose last token is computed all the same.
            reused = min((held or len(found)) * self.block_size, seq.num_tokens - 1)
            pulls = seq.incoming is not None and seq.incoming.stage is Stage.WAITING_TO_START
            if seq.min_cached_share and self._dismiss(seq, seq.num_tokens if pulls else reused):
                continue
            chunk = min(seq.num_tokens - reused, limit)
            if chunk > budget and not pulls:
                if not self._chunked:
                    break
                chunk = budget
            need = self._blocks_for(seq.num_tokens if self._reserve or pulls else reused + chunk) - len(found) - held
            spared = self._watermark if self.running else 0
            if need + pool.ownerless(found) + spared > pool.free:
                break
            if not held and self._waits_for_blocks(seq, found, passed_over, now_us, pulls=pulls):
                continue
            self.waiting.pop()
            pool.share(found)
            seq.blocks += found + pool.take(self._blocks_for(reused + chunk) - len(found) - held)
            seq.stored, seq.computed, seq.reused = seq.stored if held else len(found), reused, reused
            if seq.reports_hits and self._cache is not None:
                self._cache.report_found(seq, len(found))
            self._start(seq, now_us)
            budget -= chunk
            self._compute(seq, chunk)
            admitted.append(seq)
        if passed_over:
            self._all_deferred = not self.waiting and self.deferred.issuperset(passed_over)
            for seq in reversed(passed_over):
                self.waiting.put_back(seq)
        self.fetching = sum(seq not in self.deferred for seq in passed_over)
        return budget, admitted

    def fetched(self, seq: Sequence) -> None:
        """The blocks of a sequence have come: it is the next to be admitted, and they can be found."""
        self._loads.fetched(seq)
        self._all_deferred = False

    def unfetched(self, seq: Sequence) -> None:
        """What another server was to send does not come: the sequence waits to be computed here."""
        self._loads.unfetched(seq)
        self._all_deferred = False

    def hold(self, seq: Sequence, now_us: int) -> None:
        """A sequence has ended whose blocks another server will come for, if it ended as it should."""
        self._loads.hold(seq, now_us)

    def _dismiss(self, seq: Sequence, cached: int) -> bool:
        """End the sequence at the queue's head if too little of it is cached; a share is all that is looked at."""
        if cached >= seq.min_cached_share * len(seq.prompt):
            return False
        self.remove(seq)
        seq.finish_reason = "cache_threshold"
        self.dismissed.append(seq)
        return True

    def _waits_for_blocks(
        self, seq: Sequence, found: list[int], passed_over: list[Sequence], now_us: int, *, pulls: bool
    ) -> bool:
        """Have what follows the blocks `found` come from where it is, if anywhere; whether the queue's head waits."""
        if not pulls:
            return self._loads.fetch(seq, found, passed_over, now_us)
        if not self._loads.pull(seq, found):
            return False
        if seq.preemptions == 0:
            if self._cache is not None:
                self.queried_tokens += seq.num_tokens
                self.hit_tokens += len(found) * self.block_size
            self.pulled_tokens += seq.loaded
        return True

    def preempt_all(self) -> list[Sequence]:
        """Preempt every running sequence; they stand in the queue as they ran. Returns them."""
        preempted = list(reversed(self.running))
        for seq in preempted:
            self._preempt(seq)
        return preempted

    def _start(self, seq: Sequence, now_us: int) -> None:
        seq.status = Status.RUNNING
        seq.order = next(self._admissions)
        if seq.lora is not None:
            self.deferred.discard(seq)
            self.adapters.enter(seq.lora)
        if seq.scheduled_us < 0:
            seq.scheduled_us = now_us
        if seq.incoming is not None and seq.incoming.stage is not None and self.transfers is not None:
            self.transfers.move(seq, None)
        elif seq.preemptions == 0 and self._cache is not None and seq.reads_prefix_cache:
            seq.cached_tokens = seq.reused
            self.queried_tokens += seq.num_tokens
            self.hit_tokens += seq.reused - seq.loaded
            self.loaded_tokens += seq.loaded
            self.loaded_from_disk += seq.loaded_from_disk
        self.running[seq] = self.prefilling[seq] = None

    def _compute(self, seq: Sequence, chunk: int) -> bool:
        """Compute a part of a prompt, whose blocks the sequence has; whether the prompt is complete."""
        self.chunks[seq] = seq.computed, chunk
        seq.computed += chunk
        if self._cache is not None:
            self._cache.store(seq, seq.computed)
        if seq.computed < seq.num_tokens:
            return False
        del self.prefilling[seq]
        seq.room = len(seq.blocks) * self.block_size - seq.num_tokens
        return True

    def _longest_part(self) -> int:
        """Most tokens of one prompt in this pass, the budget aside; a sequence that is alone may have all of it."""
        sequences = len(self.running) + len(self.waiting)
        if not self._threshold or sequences < 2:
            return self.budget
        return max(self._threshold, self.budget // sequences) if self._adaptive else self._threshold

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _allocate(self, seq: Sequence, tokens: int) -> list[Sequence]:
        """Give `seq` the blocks for its first `tokens` tokens; returns the sequences preempted for it, maybe itself."""
        need = self._blocks_for(tokens) - len(seq.blocks)
        preempted: list[Sequence] = []
        while seq.status is Status.RUNNING and need > self.pool.free:
            # Of equals vLLM takes the first in its list; two can then take turns in losing all they have, for ever.
            latest = reversed(self.running)
            victim = max(latest, key=_urgency) if self._by_priority else next(latest)
            self._preempt(victim)
            preempted.append(victim)
        if seq.status is Status.RUNNING and need > 0:
            seq.blocks += self.pool.take(need)
        return preempted

    def _preempt(self, seq: Sequence) -> None:
        self._release(seq)
        seq.status = Status.PREEMPTED
        seq.computed = 0
        seq.preemptions += 1
        self.waiting.put_back(seq)
        self._all_deferred = False

    def _release(self, seq: Sequence) -> None:
        del self.running[seq]
        self.prefilling.pop(seq, None)
        if seq.lora is not None and self.adapters.leave(seq.lora):
            self._all_deferred = False
        self.pool.give_back(seq.blocks)
        seq.blocks = []
        seq.room = seq.stored = 0


def _order(seq: Sequence) -> int:
    return seq.order


def _urgency(seq: Sequence) -> tuple[int, int]:
    return seq.priority, seq.arrival_us
