"""Who runs: slots, token budget, chunked prefill, blocks and preemption, as vLLM V1 does it.

Source: vLLM 0.33 v1/core/sched/scheduler.py and v1/core/kv_cache_manager.py. The scheduler decides what is computed in
a pass; when a pass happens and what it costs is the pacer's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ghostfleet_simulator.config import FixedConfig
from ghostfleet_simulator.engine.blocks import BlockPool
from ghostfleet_simulator.engine.sequence import Sequence, Status


class Scheduler:
    """Waiting and running sequences over one block pool.

    Policy: first come, first served. Running sequences go before waiting ones; when blocks run out the sequence that
    was admitted last is preempted, loses its blocks and recomputes; nobody is admitted in a pass that preempted.
    """

    def __init__(self, config: FixedConfig) -> None:
        self.max_num_seqs, self.budget = config.limits
        self.block_size = config.kv_cache.block_size
        self.pool = BlockPool(config.kv_cache.blocks)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}
        """In the order of admission."""
        self.prefilling: dict[Sequence, None] = {}
        """The running sequences whose prompt is not computed whole, in the order of admission."""
        self.chunks: list[tuple[int, int]] = []
        """Parts of prompts computed since this was last cleared: tokens before the part, and tokens of it."""

    def fits(self, seq: Sequence) -> bool:
        """Whether the sequence could run to its end if it were alone; its last token is never computed."""
        return self._blocks_for(len(seq.prompt) + seq.target - 1) <= self.pool.usable

    def add(self, seq: Sequence, now_us: int) -> None:
        """Queue a sequence."""
        seq.queued_us = now_us
        self.waiting.append(seq)

    def remove(self, seq: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks."""
        if seq.status is Status.RUNNING:
            del self.running[seq]
            self.prefilling.pop(seq, None)
            self._free(seq)
        elif seq.status is not Status.FINISHED:
            self.waiting.remove(seq)
        seq.status = Status.FINISHED

    def grow(self, seq: Sequence) -> Iterator[Sequence]:
        """Make room for one more token of a decoding sequence, preempting if need be; yields the preempted ones.

        The sequence itself is among them when it was admitted last.
        """
        yield from self._allocate(seq, seq.num_tokens)
        if seq.status is Status.RUNNING:
            seq.room = len(seq.blocks) * self.block_size - seq.num_tokens

    def prefill(self, budget: int, preempted: list[Sequence]) -> tuple[int, list[Sequence]]:
        """Continue the prompts that are being computed, within `budget` tokens.

        Returns the budget left and the sequences whose prompt is now complete; adds to `preempted`.
        """
        complete = []
        for seq in list(self.prefilling):
            if budget <= 0:
                break
            if seq not in self.prefilling:  # preempted for the sake of an earlier one
                continue
            chunk = min(seq.num_tokens - seq.computed, budget)
            preempted.extend(self._allocate(seq, seq.computed + chunk))
            if seq.status is Status.RUNNING:
                budget -= chunk
                if self._computed(seq, chunk):
                    complete.append(seq)
        return budget, complete

    def admit(self, budget: int, now_us: int) -> tuple[int, list[Sequence]]:
        """Admit waiting sequences in order while slots, budget and blocks last; the head blocks those behind it.

        A sequence is admitted only if the blocks for all its tokens are free, though it takes only those of its first
        chunk (vLLM's `scheduler_reserve_full_isl`). Returns the budget left and the admitted; those of them that are
        not in `prefilling` have their whole prompt computed.
        """
        admitted = []
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            seq = self.waiting[0]
            chunk = min(seq.num_tokens, budget)
            if (
                self._blocks_for(seq.num_tokens) > self.pool.free
                or (blocks := self.pool.take(self._blocks_for(chunk))) is None
            ):
                break
            self.waiting.popleft()
            seq.status = Status.RUNNING
            if seq.scheduled_us < 0:
                seq.scheduled_us = now_us
            self.running[seq] = self.prefilling[seq] = None
            budget -= chunk
            seq.blocks.extend(blocks)
            self._computed(seq, chunk)
            admitted.append(seq)
        return budget, admitted

    def _computed(self, seq: Sequence, chunk: int) -> bool:
        self.chunks.append((seq.computed, chunk))
        seq.computed += chunk
        if seq.computed < seq.num_tokens:
            return False
        del self.prefilling[seq]
        seq.room = len(seq.blocks) * self.block_size - seq.num_tokens
        return True

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _allocate(self, seq: Sequence, tokens: int) -> Iterator[Sequence]:
        """Give `seq` the blocks for its first `tokens` tokens; yields each sequence preempted for it."""
        need = self._blocks_for(tokens) - len(seq.blocks)
        while need > 0:
            if need <= self.pool.free:
                seq.blocks.extend(self.pool.take(need))
                return
            victim = next(reversed(self.running))
            self._preempt(victim)
            yield victim
            if victim is seq:
                return

    def _preempt(self, seq: Sequence) -> None:
        del self.running[seq]
        self.prefilling.pop(seq, None)
        self._free(seq)
        seq.status = Status.PREEMPTED
        seq.computed = 0
        seq.preemptions += 1
        self.waiting.appendleft(seq)

    def _free(self, seq: Sequence) -> None:
        self.pool.give_back(seq.blocks)
        seq.blocks.clear()
        seq.room = 0
