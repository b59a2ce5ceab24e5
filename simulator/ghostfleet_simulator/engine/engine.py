"""The engine: sequences in, tokens out, driven by `advance(now)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ghostfleet_simulator.config import Backend, Lora, Profile, ServerConfig, seed_of
from ghostfleet_simulator.engine.adapters import Adapter, Place
from ghostfleet_simulator.engine.batches import BatchPacer
from ghostfleet_simulator.engine.pacing import Pacer
from ghostfleet_simulator.engine.requests import RequestPacer
from ghostfleet_simulator.engine.scheduler import Scheduler
from ghostfleet_simulator.engine.sequence import Sequence, Status
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.engine.tiers import Tiers
from ghostfleet_simulator.engine.transfer import Transfers


class Engine:
    """Sequences of one server: one scheduler, and a pacer that says when their tokens come out.

    With the backend `Simple` every sequence has due times of its own; with the others one step is computed at a time
    and the tokens of its whole batch come out at its end. The backend may change at any moment: tokens that are due
    keep their time, those after them follow the new one. Each call gives a sequence at most one token, so a server
    without any latency still hands out its tokens a step at a time.
    """

    def __init__(self, config: ServerConfig, *, rank: int = 0, entropy: bytes = bytes(32)) -> None:
        """`rank`: data-parallel ranks with the same seed still differ in what is random.

        `entropy`: random bytes of this process, for block hashes where vLLM makes them differ between processes.
        """
        seed = seed_of(config.seed, rank)
        self._scheduler = Scheduler(config, entropy)
        requests = RequestPacer(self._scheduler, self._forget, seed)
        batches = BatchPacer(self._scheduler, self._forget, seed)
        self._pacers: tuple[Pacer, Pacer] = (requests, batches)
        self._scheduler.use_lora(config.lora)
        self._pacer, self._leaving = self._in_turn(config.profile)
        self._pacer.use(config.profile)
        self.preemptions = 0
        """Preemptions since the start."""
        self._preempted_between = 0
        """Preemptions since the last step that no step caused."""
        self._aborted = False
        """A sequence was aborted since the last call of `advance`."""

    def use(self, profile: Profile, now_us: int) -> None:
        """Take over a profile: due times that are already set stay, later ones follow it."""
        current, other = self._in_turn(profile)
        current.use(profile)
        if current is not self._pacer:
            self._pacer, self._leaving = current, other
            for seq in list(other.arriving):
                other.withdraw(seq)
                current.add(seq, seq.queued_us)
            current.start(now_us)
            current.join(other.leave(now_us))

    def _in_turn(self, profile: Profile) -> tuple[Pacer, Pacer]:
        """The pacer that the profile asks for, and the other one."""
        requests, batches = self._pacers
        return (requests, batches) if profile.backend is Backend.SIMPLE else (batches, requests)

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue, preempted ones included."""
        return len(self._scheduler.waiting) + len(self._scheduler.loading) + len(self._pacer.arriving)

    @property
    def deferred(self) -> int:
        """Those of `waiting` that wait for an adapter to stop, or for blocks from a tier, and not for room."""
        scheduler = self._scheduler
        return len(scheduler.deferred) + len(scheduler.loading) + scheduler.fetching

    @property
    def sequences(self) -> list[Sequence]:
        """Every sequence that has not ended: the running ones, then the queue."""
        scheduler = self._scheduler
        return [*scheduler.running, *scheduler.loading, *scheduler.waiting, *self._pacer.arriving]

    @property
    def cached_blocks(self) -> list[bytes]:
        """The hashes of all blocks that can be found in the prefix cache, each as often as there are such blocks."""
        return self._scheduler.pool.contents

    @property
    def kv_usage(self) -> float:
        """Share of the KV-cache blocks in use, 0 to 1."""
        return self._scheduler.pool.usage

    def use_lora(self, lora: Lora) -> None:
        """Take over how many LoRA adapters there can be; which there are is in the sequences."""
        self._scheduler.use_lora(lora)

    def load_adapter(self, adapter: Adapter, now_us: int, *, anew: bool = False) -> int:
        """Bring an adapter into a slot before a sequence asks for it; when it is there.

        With `anew` it is read from disk in any case, as it is where its weights were replaced.
        """
        load = self._scheduler.adapters.load(adapter, anew=anew)
        return now_us if load is None else self._pacer.load(load, now_us)

    def place_adapter(self, adapter: Adapter) -> None:
        """Have an adapter in a slot from the start: it takes no time."""
        self._scheduler.adapters.load(adapter)

    def adapter_place(self, adapter: Adapter) -> Place:
        """The nearest place in which an adapter lies."""
        return self._scheduler.adapters.place(adapter)

    @property
    def hash_root(self) -> bytes:
        """What the hashes of all sequences are chained to; nothing where no blocks are hashed."""
        return self._scheduler.hash_root

    def hash_ahead(self, sequences: Iterable[Sequence]) -> Iterator[bytes]:
        """Hash the prompts of sequences before they are added, a block with every item; see `Scheduler.hash_ahead`."""
        return self._scheduler.hash_ahead(sequences)

    def add(self, seq: Sequence, now_us: int) -> None:
        """Queue a sequence; the next `advance` admits it if it can. `ValueError` if it could never run to its end."""
        if not self._scheduler.fits(seq):
            raise ValueError(f"{seq.id}: {len(seq.prompt)} + {seq.target} tokens do not fit into the whole KV cache")
        self._pacer.add(seq, now_us)

    def abort(self, seq: Sequence) -> None:
        """End a sequence without another token and free its blocks; a finished one is left as it is."""
        if seq.status is Status.FINISHED:
            return
        if self._pacer.withdraw(seq):
            seq.status = Status.FINISHED
        else:
            self._forget(seq)
            self._scheduler.remove(seq)
            self._aborted = True
        seq.finish_reason = "abort"

    def pause(self) -> None:
        """Admit nobody until `resume`; what runs goes on as long as there are calls of `advance`."""
        self._scheduler.admitting = False

    def resume(self, frozen_us: int = 0) -> None:
        """Admit again; `frozen_us` is how long there was no call of `advance` though there was something to do."""
        self._scheduler.admitting = True
        for pacer in self._pacers:
            pacer.resume(frozen_us)

    def reset_prefix_cache(self, *, reset_running_requests: bool = False) -> bool:
        """Forget all blocks that are found by their content; False, and nothing is forgotten, while one is in use.

        With `reset_running_requests` the running sequences are preempted first and recompute everything.
        """
        preempted = self._scheduler.preempt_all() if reset_running_requests else []
        for seq in preempted:
            self._forget(seq)
        self._preempted_between += len(preempted)
        return self._scheduler.pool.reset()

    # --- other servers ---------------------------------------------------------------------------

    @property
    def transfers(self) -> Transfers | None:
        """What is held for other servers and comes from them, if there can be any."""
        return self._scheduler.transfers

    def begin_pull(self, seq: Sequence, size: int, now_us: int) -> None:
        """Another server has begun to send `size` bytes for a sequence; they have come when a step says `arrived`.

        A profile that says how long a transfer takes, whatever its size, has the last word.
        """
        if (transfers := self._scheduler.transfers) is None:
            return
        duration_us = self._pacer.transfer_us(seq)
        if duration_us is None:
            transfers.inbound.begin(seq, size, now_us)
        else:
            transfers.inbound.end_at(seq, now_us + duration_us)

    def pulled(self, seq: Sequence) -> None:
        """What another server sent is there; the next `advance` admits the sequence if it can."""
        self._scheduler.fetched(seq)

    def pull_failed(self, seq: Sequence) -> None:
        """What another server was to send does not come: the sequence is computed here."""
        self._scheduler.unfetched(seq)

    def release(self, key: str, now_us: int) -> None:
        """Nobody comes for what is held any more."""
        if (transfers := self._scheduler.transfers) is not None:
            self._scheduler.pool.give_back(transfers.release(key, now_us))

    def advance(self, now_us: int) -> Step:
        """Produce the tokens that are due at `now_us`, then continue prompts and admit, and say when to come back."""
        step = Step()
        pacer, leaving = self._pacer, self._leaving
        if due := pacer.due(now_us):
            pacer.join(self._produce(due, step, now_us))
        leaving_us = leaving.wake_us()
        if leaving_us is not None and leaving_us <= now_us:
            going_on = self._produce(leaving.due(now_us), step, now_us)
            leaving.release(going_on)
            pacer.join(going_on)
            leaving_us = leaving.wake_us()
        scheduler = self._scheduler
        events = scheduler.events
        ended = bool(step.tokens) or pacer.stepped or leaving.stepped or (self._aborted and not self.running)
        self._aborted = False
        if scheduler.tiers is not None:
            ended = self._transfer(scheduler.tiers, step, now_us, ended=ended)
        if (transfers := scheduler.transfers) is not None:
            scheduler.pool.give_back(transfers.settle(now_us))
        recorded = len(events) if events else 0
        pacer.plan(step, now_us)
        if events and ended:
            # What vLLM publishes when it has processed a step's output (Scheduler.update_from_output). An abort that
            # leaves nothing to do makes it run an empty step.
            count = len(events) if pacer.ahead else recorded
            step.cache_events = events[:count]
            del events[:count]
        if scheduler.tiers is not None and (tiers_us := scheduler.tiers.wake_us) is not None:
            step.wake_us = tiers_us if step.wake_us is None else min(step.wake_us, tiers_us)
        if transfers is not None:
            step.happened, transfers_us = transfers.take(), transfers.wake_us
            if transfers_us is not None:
                step.wake_us = transfers_us if step.wake_us is None else min(step.wake_us, transfers_us)
        if scheduler.dismissed:
            step.dismissed, scheduler.dismissed = scheduler.dismissed, []
        if scheduler.queried_tokens:
            step.queried_tokens, step.hit_tokens = scheduler.queried_tokens, scheduler.hit_tokens
            step.loaded_tokens, step.loaded_from_disk = scheduler.loaded_tokens, scheduler.loaded_from_disk
            step.pulled_tokens = scheduler.pulled_tokens
            scheduler.queried_tokens = scheduler.hit_tokens = scheduler.pulled_tokens = 0
            scheduler.loaded_tokens = scheduler.loaded_from_disk = 0
        step.preempted += self._preempted_between
        self._preempted_between = 0
        if leaving_us is not None:
            step.wake_us = leaving_us if step.wake_us is None else min(step.wake_us, leaving_us)
        self.preemptions += step.preempted
        return step

    def _transfer(self, tiers: Tiers, step: Step, now_us: int, *, ended: bool) -> bool:
        """Move blocks between tiers. Returns whether events may be told: while blocks move vLLM makes empty steps."""
        moved, fetched = tiers.settle(now_us)
        for seq in reversed(fetched):
            self._scheduler.fetched(seq)
        if ended:
            tiers.begin(now_us)
        step.transfers, tiers.ended = tiers.ended, []
        step.offload_failures, tiers.failures = tiers.failures, 0
        return ended or (moved and not self.running)

    def _produce(self, due: list[Sequence], step: Step, now_us: int) -> list[Sequence]:
        """Give each of `due` its token; returns those that go on, with the blocks for their next one."""
        gaps = step.gaps
        ended: list[Sequence] = []
        full: list[Sequence] = []
        for seq in due:
            produced = seq.produced = seq.produced + 1
            if produced > 1:
                gaps[now_us - seq.last_token_us] += 1
            else:
                seq.first_token_us = now_us
                step.first.append(seq)
                step.prompt_tokens += len(seq.prompt)
                step.cached_tokens += seq.cached_tokens
                step.cached_elsewhere += seq.loaded if not seq.preemptions else 0
            seq.last_token_us = now_us
            if produced == seq.target:
                ended.append(seq)
            elif seq.room:
                seq.room -= 1
            else:
                full.append(seq)
        step.tokens += due
        for seq in ended:
            self._forget(seq)
            seq.finish_reason = seq.answer.finish_reason
            seq.stop_reason = seq.answer.stop_reason
            self._scheduler.hold(seq, now_us)
            self._scheduler.remove(seq)
        step.finished += ended
        preempted = self._scheduler.grow(full) if full else ()
        for seq in preempted:
            self._forget(seq)
        step.preempted += len(preempted)
        if ended or preempted:
            return [seq for seq in due if seq.status is Status.RUNNING]
        return due

    def _forget(self, seq: Sequence) -> None:
        self._pacer.forget(seq)
        self._leaving.forget(seq)
