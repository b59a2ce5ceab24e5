"""The loop that drives an engine: one wake-up per tick, however many tokens fall due in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as List
from itertools import chain
from typing import Final, Protocol

from ghostfleet_simulator.config import Lora, Profile
from ghostfleet_simulator.engine.adapters import Adapter, Place
from ghostfleet_simulator.engine.cache_events import CacheEvent
from ghostfleet_simulator.engine.engine import Engine
from ghostfleet_simulator.engine.sequence import Load, Sequence, Status
from ghostfleet_simulator.engine.step import Step
from ghostfleet_simulator.engine.transfer import Hold
from ghostfleet_simulator.runtime.clock import Clock
from ghostfleet_simulator.runtime.outbox import Outbox

_MOST_STEPS: Final = 8
"""Most steps of one moment that are made before anything is sent."""
_SEQUENCES_PER_STEP: Final = 16
"""There is one more for so many sequences that run, since the more there is to write the longer it takes."""


class Output(Protocol):
    """Where the tokens of one sequence go; the `owner` of every sequence that a driver is given."""

    def token(self) -> None:
        """One more token is there, and it is not the last."""

    def finish(self) -> None:
        """The last token is there; the sequence says why it was the last."""


class Observer(Protocol):
    """Who is told what a step brought; `EngineMetrics` in a server."""

    def on_step(self, step: Step, now_us: int, running: int, waiting: int, deferred: int, kv_usage: float) -> None:
        """A step was made."""

    def on_first_token(self, seq: Sequence, now_us: int) -> None:
        """A sequence has produced its first token."""

    def on_finished(self, seq: Sequence, now_us: int) -> None:
        """A sequence ended."""

    def on_aborted(self, seq: Sequence, now_us: int) -> None:
        """The client of a sequence went away before it ended."""

    def on_prompt_done(self, n: int, most_tokens: int) -> None:
        """The last of a prompt's `n` answers ended; the longest had `most_tokens` tokens."""

    def on_wake(self, lateness_us: int) -> None:
        """Tokens came out this long after they had been due, the sending of them not included."""


class Exchange(Protocol):
    """Who sees to KV cache that comes from other servers and goes to them."""

    def queued(self, seq: Sequence) -> None:
        """A sequence was queued."""

    def gone(self, seq: Sequence) -> None:
        """A sequence is about to be aborted."""

    def on_step(self, step: Step) -> None:
        """A step was made."""


class Driver:
    """Runs an engine on a clock and hands tokens to the outputs of their sequences."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        observer: Observer,
        outbox: Outbox,
        publish: Callable[[List[CacheEvent]], None] | None = None,
    ) -> None:
        """`publish` is told what each step brought into the prefix cache and took out, once its tokens are sent."""
        self._engine = engine
        self._clock = clock
        self._observer = observer
        self._outbox = outbox
        self._publish = publish
        self._wake_us: int | None = None
        self._idle: asyncio.Event | None = None
        self._paused = False
        self._frozen_us: int | None = None
        """Since when nothing at all is done."""
        self._closed = False
        self._exchange: Exchange | None = None
        self._alarm = clock.alarm(self._woken)

    def now_us(self) -> int:
        """The present on the engine's clock."""
        return self._clock.now_us()

    async def idle(self, seconds: float | None = None) -> None:
        """Wait until no sequence is left that could go on, at most `seconds`."""
        if self._has_work and (seconds is None or seconds > 0):
            if self._idle is None:
                self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)

    @property
    def _has_work(self) -> bool:
        if self._frozen_us is not None:
            return False
        return bool(self._engine.running if self._paused else self._engine.sequences)

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._has_work:
            self._idle.set()
            self._idle = None

    @property
    def sequences(self) -> list[Sequence]:
        """Every sequence that has not ended."""
        return self._engine.sequences

    def pause(self, *, freeze: bool) -> None:
        """Admit nobody until `resume`; with `freeze` what runs stands still, else it goes on (vLLM's PAUSED_ALL, _NEW).

        Sequences that come meanwhile wait, and nothing tells of them: a paused engine makes no step, so its gauges
        keep their values.
        """
        self.resume()
        self._engine.pause()
        self._paused = True
        if freeze:
            self._frozen_us, self._wake_us = self._clock.now_us(), None
            self._alarm.set(None)
            self._tell_idle()

    def resume(self) -> None:
        """Go on after `pause`."""
        if not self._paused:
            return
        now_us = self._clock.now_us()
        self._engine.resume(0 if self._frozen_us is None else now_us - self._frozen_us)
        self._paused, self._frozen_us = False, None
        self._soon(now_us)

    def close(self) -> None:
        """Take no more sequences: each one ends at once with finish reason `abort`."""
        self._closed = True

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        """Forget the prefix cache, as `Engine.reset_prefix_cache` says; whether it was forgotten."""
        done = self._engine.reset_prefix_cache(reset_running_requests=reset_running_requests)
        self._soon(self._clock.now_us())
        return done

    def abort(self, chosen: Callable[[Sequence], bool]) -> None:
        """End the chosen sequences at the wish of an operator; their clients are told `abort`, vLLM counts them not."""
        for seq in self._engine.sequences:
            if chosen(seq):
                self._abort(seq)
                seq.owner.finish()
                self._observer.on_aborted(seq, self._clock.now_us())

    def abort_all(self) -> None:
        """End every sequence; its output is told that it finished, with finish reason `abort`."""
        for seq in self._engine.sequences:
            self._abort(seq)
            seq.owner.finish()
            self._observer.on_finished(seq, self._clock.now_us())

    def submit(self, *sequences: Sequence) -> None:
        """Queue sequences whose `owner` is an `Output`, at one moment; the pass that follows at once admits them."""
        now_us = self._clock.now_us()
        if self._closed:
            for seq in sequences:
                seq.status, seq.finish_reason = Status.FINISHED, "abort"
                seq.owner.finish()
                self._observer.on_finished(seq, now_us)
            return
        engine = self._engine
        load = Load(engine.running, engine.waiting, engine.kv_usage)
        for seq in sequences:
            seq.found = load
            engine.add(seq, now_us)
            if self._exchange is not None:
                self._exchange.queued(seq)
        if not self._paused or self._engine.running:
            self._soon(now_us)

    def abandon(self, seq: Sequence) -> None:
        """End a sequence whose client is gone; nothing if it has ended. vLLM counts no such request as finished."""
        if seq.finish_reason is None:
            self._abort(seq)
            self._observer.on_aborted(seq, self._clock.now_us())

    def end(self, seq: Sequence, stop_reason: str) -> None:
        """End a sequence because its text has come to a stop string, which only its output can see.

        vLLM 0.33 does so in the API process and then aborts in the engine (v1/engine/output_processor.py).
        """
        self._abort(seq)
        seq.finish_reason, seq.stop_reason = "stop", stop_reason
        self._observer.on_finished(seq, self._clock.now_us())

    def prompt_done(self, n: int, most_tokens: int) -> None:
        """Said when the last of a prompt's `n` answers has ended; the longest had `most_tokens` tokens."""
        self._observer.on_prompt_done(n, most_tokens)

    # --- other servers ---------------------------------------------------------------------------

    @property
    def holds(self) -> Mapping[str, Hold]:
        """What is held for other servers, by what they ask by."""
        transfers = self._engine.transfers
        return {} if transfers is None else transfers.holds

    def attach(self, exchange: Exchange) -> None:
        """Say who is told of the transfers."""
        self._exchange = exchange

    def begin_pull(self, seq: Sequence, size: int) -> None:
        """Another server has begun to send `size` bytes for a sequence."""
        now_us = self._clock.now_us()
        self._engine.begin_pull(seq, size, now_us)
        self._soon(now_us)

    def pulled(self, seq: Sequence) -> None:
        """What another server sent is there."""
        self._engine.pulled(seq)
        self._soon(self._clock.now_us())

    def pull_failed(self, seq: Sequence, *, fail: bool) -> None:
        """What another server was to send does not come; with `fail` the sequence ends, else it is computed here."""
        self._engine.pull_failed(seq)
        now_us = self._clock.now_us()
        if fail and seq.finish_reason is None:
            self._engine.abort(seq)
            seq.finish_reason = "error"
            seq.owner.finish()
            self._observer.on_finished(seq, now_us)
        self._soon(now_us)

    def send(self, key: str, size: int) -> None:
        """Begin to send `size` bytes of what is held."""
        now_us = self._clock.now_us()
        if (transfers := self._engine.transfers) is not None:
            transfers.outbound.begin(key, size, now_us)
        self._soon(now_us)

    def renew(self, keys: Iterable[str], lease_us: int) -> None:
        """Hold these for so long from now."""
        if (transfers := self._engine.transfers) is not None:
            transfers.renew(keys, self._clock.now_us() + lease_us)

    def release(self, key: str) -> None:
        """Let go what is held."""
        now_us = self._clock.now_us()
        self._engine.release(key, now_us)
        self._soon(now_us)

    # --- settings --------------------------------------------------------------------------------

    def use(self, profile: Profile) -> None:
        """Have the engine take over a profile between two steps."""
        self._engine.use(profile, self._clock.now_us())
        self._soon(self._clock.now_us())

    def use_lora(self, lora: Lora) -> None:
        """Have the engine take over how many LoRA adapters there can be; who waits for one may have room now."""
        self._engine.use_lora(lora)
        self._soon(self._clock.now_us())

    def load_adapter(self, adapter: Adapter, *, anew: bool) -> int:
        """Load an adapter, as `Engine.load_adapter` says; after how many microseconds it is there."""
        now_us = self._clock.now_us()
        return self._engine.load_adapter(adapter, now_us, anew=anew) - now_us

    def place_adapter(self, adapter: Adapter) -> None:
        """Have an adapter loaded without any time passing."""
        self._engine.place_adapter(adapter)

    def adapter_place(self, adapter: Adapter) -> Place:
        """Where an adapter lies."""
        return self._engine.adapter_place(adapter)

    def _abort(self, seq: Sequence) -> None:
        """Take a sequence out of the engine; its blocks are free for the pass that follows at once."""
        if self._exchange is not None:
            self._exchange.gone(seq)
        self._engine.abort(seq)
        self._soon(self._clock.now_us())

    def _soon(self, now_us: int) -> None:
        if self._frozen_us is None and (self._wake_us is None or self._wake_us > now_us):
            self._wake_us = now_us
            self._alarm.set(now_us)

    def _woken(self) -> None:
        now_us, outbox = self._clock.now_us(), self._outbox
        most = min(_MOST_STEPS, 1 + self._engine.running // _SEQUENCES_PER_STEP)
        outbox.open()
        steps = [self._step(now_us, more=most > 1)]
        while outbox.more:
            steps.append(self._step(now_us, more=len(steps) + 1 < most))
        if len(steps) > 1:
            self._hand_out_held(steps)
        outbox.close()
        for step in steps:
            self._report(step, now_us)
        if self._idle is not None:
            self._tell_idle()
        # An output may have submitted or aborted meanwhile and thus asked for an earlier pass.
        self._alarm.set(self._wake_us)

    def _step(self, now_us: int, *, more: bool) -> Step:
        """Make a step and hand its tokens out. With `more`, the outbox says whether another one ends at this moment.

        That is so where steps take no time. vLLM's front end then has several before it comes to write, and its output
        collector merges what they bring to one client.
        """
        due_us = self._wake_us
        step = self._engine.advance(now_us)
        if step.tokens and due_us is not None:
            self._observer.on_wake(now_us - due_us)
        self._wake_us = step.wake_us
        self._outbox.more = more and bool(step.tokens) and due_us is not None and step.wake_us == due_us
        for seq in step.tokens:
            if seq.finish_reason is None:
                seq.owner.token()
            else:
                seq.owner.finish()
        for seq in step.dismissed:
            seq.owner.finish()
        return step

    def _hand_out_held(self, steps: List[Step]) -> None:
        """Have those speak who kept silent because there was more to come, and whom the last step brought nothing."""
        spoke = chain.from_iterable(step.tokens for step in steps[:-1])
        for seq in set(spoke).difference(steps[-1].tokens):
            if seq.finish_reason is None:
                seq.owner.token()

    def _report(self, step: Step, now_us: int) -> None:
        engine, observer = self._engine, self._observer
        deferred = engine.deferred
        observer.on_step(step, now_us, engine.running, engine.waiting - deferred, deferred, engine.kv_usage)
        if self._exchange is not None:
            self._exchange.on_step(step)
        if step.first or step.finished or step.dismissed:
            there_us = self._clock.now_us()
            for seq in step.first:
                observer.on_first_token(seq, there_us)
            for seq in (*step.finished, *step.dismissed):
                observer.on_finished(seq, there_us)
        if step.cache_events and self._publish is not None:
            self._publish(step.cache_events)
