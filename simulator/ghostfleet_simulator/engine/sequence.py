"""A sequence: one prompt and the answer that is being generated for it."""

from __future__ import annotations

from collections.abc import Sequence as List
from enum import Enum
from typing import Any, NamedTuple, Protocol

from ghostfleet_simulator.engine.adapters import Adapter
from ghostfleet_simulator.engine.transfer import Incoming, Outgoing


class Answer(Protocol):
    """What will be said, fixed before generation begins, so that the engine only counts."""

    @property
    def length(self) -> int:
        """Tokens of the answer; an end-of-sequence token counts."""

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`: why the answer ends after `length` tokens."""

    @property
    def stop_reason(self) -> int | str | None:
        """The stop token that ended it, as vLLM's `stop_reason`."""

    def token_ids(self, start: int, stop: int) -> List[int]:
        """Ids of the tokens from `start`, counted from 0, up to `stop`."""


class Status(Enum):
    """Where a sequence is in its life (vLLM 0.33 v1/request.py)."""

    WAITING = "waiting"
    LOADING = "loading"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


class Load(NamedTuple):
    """What a server has to do: the values of three gauges that schedulers read."""

    running: int
    waiting: int
    kv_usage: float
    """0 to 1."""


class _Paced:
    """What every token reads or writes of its sequence."""

    # The slots of a base class lie together in memory, before all others: a token then waits for less of it.
    __slots__ = ("due_us", "finish_reason", "last_token_us", "owner", "produced", "room", "slot_us", "target")


class Sequence(_Paced):
    """One sequence in the engine.

    `target` is the number of tokens it will produce, at least 1, `max_tokens` what it was allowed to. The lowest
    `priority` is served first where the policy asks for it. Only sequences with the same `cache_salt` share blocks, and
    one that does not read the prefix cache is computed whole though others may use its blocks. One that `reports_hits`
    has KV events tell of the blocks that it found; they also name its `session_id`. `lora` is its adapter, which tells
    its blocks from those of others, too. Keys and values that another server computes are `incoming`, those that one
    will come for `outgoing`. It ends unserved, with `cache_threshold`, where less than `min_cached_share` of its
    prompt, 0 to 1, is cached. Times are microseconds of the engine's clock, -1 while they have not happened.
    `owner` belongs to the caller; the engine never looks at it.
    """

    __slots__ = (
        "answer",
        "arrival_us",
        "block_hashes",
        "blocks",
        "cache_salt",
        "cached_tokens",
        "computed",
        "first_token_us",
        "found",
        "id",
        "incoming",
        "loaded",
        "loaded_from_disk",
        "lora",
        "max_tokens",
        "min_cached_share",
        "order",
        "outgoing",
        "preemptions",
        "priority",
        "prompt",
        "queued_us",
        "rank",
        "reads_prefix_cache",
        "reports_hits",
        "reused",
        "scheduled_us",
        "session_id",
        "status",
        "stop_reason",
        "stored",
    )

    def __init__(
        self,
        name: str,
        prompt: List[int],
        answer: Answer,
        arrival_us: int,
        *,
        max_tokens: int | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
        reads_prefix_cache: bool = True,
        incoming: Incoming | None = None,
        outgoing: Outgoing | None = None,
        min_cached_share: float = 0,
        reports_hits: bool = False,
        session_id: str | None = None,
        lora: Adapter | None = None,
        owner: Any = None,
    ) -> None:
        if not prompt:
            raise ValueError("a sequence needs a prompt of at least one token")
        if answer.length < 1:
            raise ValueError("a sequence produces at least one token")
        self.id = name
        self.prompt = prompt
        self.answer = answer
        self.target = answer.length
        self.max_tokens = max_tokens or answer.length
        self.owner = owner
        self.status = Status.WAITING
        self.produced = 0
        self.computed = 0
        """Tokens, of prompt and answer so far, whose keys and values are in the blocks. Kept only during a prefill."""
        self.blocks: list[int] = []
        self.room = 0
        """Tokens that still fit into `blocks`; kept while the sequence decodes."""
        self.order = 0
        """Its place among the running sequences: the number of its admission."""
        self.priority = priority
        self.cache_salt = cache_salt
        self.lora = lora
        self.reads_prefix_cache = reads_prefix_cache
        self.incoming, self.outgoing = incoming, outgoing
        self.min_cached_share = min_cached_share
        self.reports_hits = reports_hits
        self.session_id = session_id
        self.block_hashes: list[bytes] = []
        """Hashes of its first full blocks, as far as they were needed."""
        self.stored = 0
        """How many of `blocks` can be found in the prefix cache, from the first."""
        self.reused = 0
        """Tokens that were in the prefix cache when it was admitted last; they are not computed."""
        self.loaded = self.loaded_from_disk = 0
        """Those of `reused` that came from a tier or another server, and those of them that were on disk only."""
        self.cached_tokens = 0
        """Tokens that were in the prefix cache when it was first admitted."""
        self.preemptions = 0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.rank = 0
        """Data-parallel rank of the engine that has it."""
        self.found: Load | None = None
        """The load of the server when it was submitted."""
        self.arrival_us = arrival_us
        self.queued_us = -1
        self.scheduled_us = -1
        self.first_token_us = -1
        self.last_token_us = -1
        self.due_us = self.slot_us = -1

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt) + self.produced

    @property
    def told_cached_tokens(self) -> int:
        """Cached tokens as a client is told them: where another server computed the prompt, those that it had."""
        elsewhere = None if self.incoming is None else self.incoming.cached_tokens
        return self.cached_tokens if elsewhere is None else elsewhere

    def tokens(self, begin: int, end: int) -> tuple[int, ...]:
        """Ids of the tokens from `begin` up to `end`, prompt and answer taken together."""
        prompt = self.prompt
        beyond = end - len(prompt)
        if beyond <= 0:
            return tuple(prompt[begin:end])
        if begin >= len(prompt):
            return tuple(self.answer.token_ids(begin - len(prompt), beyond))
        return (*prompt[begin:], *self.answer.token_ids(0, beyond))
