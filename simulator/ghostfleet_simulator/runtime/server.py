"""One simulated server: everything that belongs to it, and nothing outside it."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ghostfleet_simulator.config import Dialect, Failure, FailureType, ServerConfig, seed_of
from ghostfleet_simulator.document import Document, InForce, restart_hash
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.timers import check_pace
from ghostfleet_simulator.faults.events import EventFaults
from ghostfleet_simulator.faults.injector import FaultInjector
from ghostfleet_simulator.faults.readiness import Flapping
from ghostfleet_simulator.faults.transfers import TransferFaults
from ghostfleet_simulator.metrics.fake import check_fake_metrics
from ghostfleet_simulator.metrics.recorder import ServerMetrics
from ghostfleet_simulator.problems import InvalidInput
from ghostfleet_simulator.runtime.adapters import AdapterRegistry
from ghostfleet_simulator.runtime.clock import Clock, WallClock
from ghostfleet_simulator.runtime.driver import Output
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.held import Held
from ghostfleet_simulator.runtime.outbox import Outbox
from ghostfleet_simulator.runtime.process_faults import ProcessFaults, end_process
from ghostfleet_simulator.runtime.ranks import Ranks
from ghostfleet_simulator.runtime.standby import Standby
from ghostfleet_simulator.runtime.work import Prompt, Sampling, Work
from ghostfleet_simulator.text.answer import Answer, answers_of
from ghostfleet_simulator.text.detokenize import Detokenizer
from ghostfleet_simulator.text.tokenizer import Tokenizer, tokenizer_of

if TYPE_CHECKING:
    import zmq

STARTING: Final = "starting"
"""Why a server should get no traffic yet."""
_log = logging.getLogger("ghostfleet.server")


class OutputFactory(Protocol):
    """Makes the output of each sequence of a request."""

    def __call__(self, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int, /) -> Output:
        """The output of choice `index`, which answers `prompt`."""


class SimulatedServer:
    """One inference server: engine, clock, text, metrics, faults, and the document in force.

    It knows no HTTP; `api/` puts one on top of it. Two servers in one process share nothing but, if the caller says so,
    a tokenizer and the threads of a ZeroMQ context.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        document: Document | None = None,
        tokenizer: Tokenizer | None = None,
        clock: Clock | None = None,
        live_file: Path | None = None,
        kv_context: zmq.Context[zmq.Socket[bytes]] | None = None,
        environ: Mapping[str, str] = os.environ,
        end: Callable[[int], None] = end_process,
    ) -> None:
        """`environ` says what the pod is called. `end` is what an injected crash does, with its exit code."""
        self.config = config
        """The configuration the server was started with; its live part is in `in_force`."""
        self.environ = environ
        """Variables that tell where the server runs."""
        self._end = end
        self.tokenizer = tokenizer or tokenizer_of(config.model)
        size = f"-dp{config.data_parallel_size}" if config.data_parallel_size > 1 else ""
        fingerprint = f"vllm-{config.engine.version}{size}-{restart_hash(config)[-8:]}"
        self.fingerprint = fingerprint if config.engine.dialect is Dialect.VLLM else None
        """`system_fingerprint` of every response (vLLM 0.33 `--fingerprint-mode full`); other engines have none."""
        self.metrics = ServerMetrics(config)
        self._seed = seed_of(config.seed, config.ranks[0])
        self.faults = FaultInjector(self._seed)
        self.held = Held(float(config.clock.compression))
        """Injected failures that are under way with an answer."""
        self._event_faults = EventFaults(self._seed, self.metrics.count_fault)
        self._transfer_faults = TransferFaults(self._seed, self.metrics.count_fault)
        self._flapping = Flapping()
        self._process_faults = ProcessFaults(self.metrics.count_fault, self.crash, float(config.clock.compression))
        self.started = False
        """Serving."""
        self._ready_at = 0.0
        self.draining = False
        """Told to take no more traffic; running requests go on."""
        self.changed: Callable[[], None] = lambda: None
        """Called when another document or a patch has come into force, and when it begins to drain."""
        self.resources = ExitStack()
        """What is closed with the server."""
        self._live_file = live_file
        self._clock = clock or WallClock(compression=Fraction(str(config.clock.compression)))
        self.outbox = Outbox()
        """What the outputs of sequences send goes through it."""
        self.ranks = Ranks(
            config,
            self._clock,
            self.outbox,
            self.metrics,
            self._event_faults,
            self._transfer_faults,
            environ,
            kv_context,
        )
        """The engines."""
        threshold = config.kv_transfer.cache_hit_threshold
        self._least_share = 0.0 if threshold is None else float(threshold)
        self.standby = Standby(self.ranks, config.lifecycle.wake_up_duration.seconds, self.metrics.on_sleep)
        """Pause and sleep."""
        self.adapters = AdapterRegistry(config.model.aliases, self.ranks, float(config.clock.compression))
        """The LoRA adapters."""
        self._requests = 0
        self.in_force = self._first_state(document or Document.of(config))
        self._check(self.in_force)
        self._take_over()

    # --- configuration ---------------------------------------------------------------------------

    def offer(self, document: Document) -> InForce:
        """Take over a whole document if the rule of revisions lets it; raises `Refused` or `InvalidInput`.

        It is kept before it is in force.
        """
        return self._adopt(self.in_force.offer(document))

    def patch(self, raw: object) -> InForce:
        """Take over some live fields, a JSON merge patch; raises `InvalidInput`. Kept before they are in force."""
        return self._adopt(self.in_force.patch(raw))

    def _adopt(self, state: InForce) -> InForce:
        if state != self.in_force:
            self._check(state)
            if self._live_file:
                _write_atomically(self._live_file, json.dumps(state.to_json()))
            self.in_force = state
            self._take_over()
            _log.info("revision %d with %s is in force", state.revision, state.document.hash)
            self.changed()
        return state

    def _check(self, state: InForce) -> None:
        """Raise `InvalidInput` if live settings do not go with what the server was started with."""
        live = state.document.config
        check_pace(self.config.clock, live.profile)
        check_fake_metrics(self.config, live.fake_metrics)

    def _first_state(self, document: Document) -> InForce:
        if self._live_file is None or not self._live_file.exists():
            return InForce.start(document)
        try:
            return InForce.from_json(json.loads(self._live_file.read_text())).resumed(document)
        except (ValueError, InvalidInput) as error:
            _log.warning("%s is not used: %s", self._live_file, error)
            return InForce.start(document)

    def _take_over(self) -> None:
        config = self.in_force.document.config
        self.ranks.use(config.profile)
        self.adapters.use(config.lora)
        self.metrics.use_lora(config.lora)
        self.faults.use(config.failures, headers=config.failure_headers)
        self._event_faults.use(config.failures)
        self._transfer_faults.use(config.failures)
        self.held.use(config.failures)
        self._flapping.use(config.failures, self.now_us() / 1e6)
        self._process_faults.use(config.failures)
        self.metrics.fake(config.fake_metrics)
        self._answers = answers_of(config.answers, self.tokenizer, self._seed, encoder_only=config.model.encoder_only)
        self.metrics.set_profile(self.in_force.revision, self.in_force.document.hash)

    # --- generation ------------------------------------------------------------------------------

    def now_us(self) -> int:
        """The present on the server's clock."""
        return self._clock.now_us()

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return sum(rank.engine.running for rank in self.ranks)

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return sum(rank.engine.waiting for rank in self.ranks)

    @property
    def deferred(self) -> int:
        """Those of them that wait for room for their LoRA adapter."""
        return sum(rank.engine.deferred for rank in self.ranks)

    @property
    def queued_tokens(self) -> int:
        """Tokens of the prompts whose first token has not come."""
        return sum(len(seq.prompt) for seq in self.ranks.sequences if not seq.produced)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1; of several the mean."""
        return sum(rank.engine.kv_usage for rank in self.ranks) / len(self.ranks)

    def detokenizer(self, sampling: Sampling) -> Detokenizer:
        """What turns the tokens of one answer into text and finds its stop strings."""
        return Detokenizer(
            self.tokenizer,
            sampling.stop,
            include_stop_str_in_output=sampling.include_stop_str_in_output,
            min_tokens=sampling.min_tokens,
            skip_special_tokens=sampling.skip_special_tokens,
        )

    def generate(
        self, work: Work, arrival_us: int, make_output: OutputFactory, on_end: Callable[[], None] | None = None
    ) -> Generation:
        """Queue the sequences of a request that arrived at `arrival_us`; their outputs get the tokens as they come.

        `on_end` is called when all have ended, which may be before this returns.
        """
        generation = Generation(self.ranks, on_end)
        prompts: list[list[Sequence]] = []
        index = 0
        elsewhere = work.elsewhere
        least = self._least_share if elsewhere.min_cached_share is None else elsewhere.min_cached_share
        for prompt in work.prompts:
            sampling = prompt.sampling
            prompts.append([])
            number, self._requests = self._requests, self._requests + 1
            for choice in range(sampling.n):
                name = prompt.id if sampling.n == 1 else f"{choice}_{prompt.id}"
                incoming, outgoing = self.ranks.roles(elsewhere.params, name)
                if outgoing is not None and outgoing.ends_with_prompt:
                    sampling = sampling.of_one_token()
                answer = self._answers.answer(
                    prompt.token_ids,
                    prompt.token_ids if prompt.echo is None else prompt.echo,
                    max_tokens=sampling.max_tokens,
                    max_tokens_given=sampling.requested_max_tokens is not None,
                    min_tokens=sampling.min_tokens,
                    ignore_eos=sampling.ignore_eos,
                    stop_token_ids=sampling.stop_token_ids,
                    seed=sampling.seed,
                    request_index=number,
                    choice_index=choice,
                )
                seq = Sequence(
                    name,
                    prompt.token_ids,
                    answer,
                    arrival_us,
                    max_tokens=sampling.max_tokens,
                    priority=work.priority,
                    cache_salt=work.cache_salt,
                    reads_prefix_cache=work.reads_prefix_cache,
                    incoming=incoming,
                    outgoing=outgoing,
                    min_cached_share=least,
                    reports_hits=work.reporting.hits,
                    session_id=work.reporting.session_id,
                    lora=work.lora,
                )
                seq.owner = make_output(generation, seq, answer, prompt, index)
                prompts[-1].append(seq)
                index += 1
        generation.begin(prompts, work.rank)
        return generation

    def request_ids(self) -> frozenset[str]:
        """The ids by which `abort` knows requests."""
        names = [seq.id for seq in self.ranks.sequences]
        return frozenset(names + [_parent(name) for name in names])

    def abort(self, request_ids: Iterable[str] | None) -> int:
        """End requests, by the ids in their answers, or all of them; how many were meant, as vLLM counts them.

        Their clients get finish reason `abort`.
        """
        if request_ids is None:
            names = [seq.id for seq in self.ranks.sequences]
            self.ranks.abort(lambda _: True)
            return len(names) + len({parent for name in names if (parent := _parent(name)) != name})
        wanted = list(request_ids)
        ids = frozenset(wanted)
        self.ranks.abort(lambda seq: seq.id in ids or _parent(seq.id) in ids)
        return len(wanted)

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        """Forget the prefix cache; False while blocks are in use. Running requests may be preempted for it."""
        return self.ranks.reset_prefix_cache(reset_running_requests=reset_running_requests)

    # --- life ------------------------------------------------------------------------------------

    def start(self, *, leads: bool = True) -> None:
        """Say that the server serves; if it `leads` its process, failures that befall the process begin."""
        self.started = True
        self.ranks.start()
        self._ready_at = time.monotonic() + self.config.lifecycle.ready_after.seconds
        if leads:
            self._process_faults.start()

    @property
    def unready(self) -> str:
        """Why the server should get no traffic: `starting`, `draining`, `Unready` (an injected failure), or nothing."""
        if self.draining:
            return "draining"
        if not self.started or time.monotonic() < self._ready_at:
            return STARTING
        return FailureType.UNREADY.value if self._flapping.unready(self.now_us() / 1e6) else ""

    @property
    def flaps(self) -> bool:
        """Whether `unready` changes by itself, by an injected failure."""
        return self._flapping.goes_by_time

    def drain(self) -> None:
        """Take no more traffic: readiness goes, running requests go on."""
        self.draining = True
        self.changed()

    def crash(self, failure: Failure) -> None:
        """Suffer an injected crash: no answer is finished. Where it ends the process this does not return."""
        code = 1 if failure.exit_code is None else failure.exit_code
        _log.error("crashing with exit code %d: an injected failure", code)
        self._end(code)

    async def shut_down(self, grace_seconds: float) -> None:
        """Drain for at most `grace_seconds`, then abort what still runs; clients get the finish reason `abort`.

        So do those whose requests come from now on, at once.
        """
        self.drain()
        self.ranks.stop()
        await self.ranks.idle(grace_seconds)
        self.ranks.abort_all()
        self.held.stop()
        await self.ranks.end_transfers()

    def close(self, *, abruptly: bool = False) -> None:
        """Release the clock and the sockets, what injected failures have taken, and `resources`.

        `abruptly`: KV events that are not sent yet are lost, as when a process crashes.
        """
        self.resources.close()
        self._process_faults.close()
        self.ranks.close(abruptly=abruptly)
        self._clock.close()


def _parent(name: str) -> str:
    """Id of the request that a sequence belongs to: of several answers to one prompt each has a number before it."""
    number, _, rest = name.partition("_")
    return rest if rest and number.isdigit() else name


def _write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees it old or new and never in part."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
