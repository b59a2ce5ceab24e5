"""What a client asked for, checked and resolved: the form in which the API hands a request to the runtime.

Structs of msgspec, because a frozen dataclass of as many fields takes ten times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from ghostfleet_simulator.engine.adapters import Adapter


class Kind(Enum):
    """Which of the two generation protocols a request speaks."""

    CHAT = "chat"
    COMPLETION = "completion"


class Sampling(msgspec.Struct, frozen=True, gc=False):
    """What decides when an answer ends, for one prompt."""

    max_tokens: int
    """Most tokens of one answer, at least 1; never more than fit behind the prompt (vLLM 0.33 clamps to that)."""
    requested_max_tokens: int | None = None
    """What the client asked for, if anything (16 where a completion request says nothing)."""
    min_tokens: int = 0
    """Tokens before which neither an end-of-sequence token nor a stop token ends the answer."""
    ignore_eos: bool = False
    """The answer goes on until `max_tokens`."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; none is empty."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the answer."""
    include_stop_str_in_output: bool = False
    """The stop string is part of the answer."""
    skip_special_tokens: bool = True
    """Special tokens have no text."""
    n: int = 1
    """Answers per prompt."""
    seed: int | None = None
    """Seed of the answers of this request."""

    @property
    def plain(self) -> bool:
        """Whether the fragments of an answer are its text: no stop string to find, no special token to show."""
        return not self.stop and not self.include_stop_str_in_output and self.skip_special_tokens

    def of_one_token(self) -> Sampling:
        """The same for answers that end by their length after one token."""
        return msgspec.structs.replace(
            self,
            max_tokens=1,
            requested_max_tokens=1,
            min_tokens=0,
            ignore_eos=True,
            stop=(),
            stop_token_ids=frozenset(),
        )


class Prompt(msgspec.Struct, frozen=True):
    """One prompt of a request; it yields `sampling.n` sequences and as many choices."""

    id: str
    """Id of the engine's request, as vLLM builds it: the response's id, for completions with `-<index>`."""
    token_ids: list[int]
    """The prompt in tokens; 1 up to one less than the longest sequence, unless the work is rejected."""
    sampling: Sampling
    echo: str | None = None
    """What an echoing server answers: the text of a chat's last message; None is the prompt itself, token for token."""
    text: str | None = None
    """The prompt as text, where it was one."""
    prefix: str = ""
    """Text that goes before each answer because the client asked to have its prompt (`echo: true`) returned."""


class Details(msgspec.Struct, frozen=True, gc=False):
    """What the answers of a request tell beside their text, and in what portions."""

    logprobs: int | None = None
    """Each token of an answer with its logprob, and as many of the most likely ones: -1 is the whole vocabulary."""
    logprob_token_ids: tuple[int, ...] | None = None
    """The tokens to tell the logprobs of in place of the most likely ones."""
    prompt_logprobs: int | None = None
    """The same of the prompt's tokens."""
    greedy: bool = False
    """The token that is said is the most likely one, because the temperature is 0."""
    as_token_ids: bool = False
    """Tokens are spelt `token_id:<id>` in logprobs."""
    token_ids: bool = False
    """Answers and prompts come with their token ids."""
    prompt_text: bool = False
    """Chats come with the prompt that the template made."""
    echo: bool = False
    """The tokens of the prompt come before those of the answer (completions)."""
    interval: int = 1
    """Tokens of a chunk, at least."""

    @property
    def plain(self) -> bool:
        """Whether a stream has a chunk per token that differs from the next in nothing but its text."""
        return self.logprobs is None and not self.token_ids and self.interval == 1


class Reporting(msgspec.Struct, frozen=True, gc=False):
    """What KV events tell of a request."""

    session_id: str | None = None
    """The session it belongs to."""
    hits: bool = False
    """The blocks that it finds in the prefix cache, and not only those it adds."""


class Elsewhere(msgspec.Struct, frozen=True):
    """What other servers have to do with a request."""

    params: Mapping[str, Any] | None = None
    """What it says of them, as its connector understands it: `kv_transfer_params`, or SGLang's `bootstrap_*`."""
    min_cached_share: float | None = None
    """Share of the prompt, 0 to 1, below which it is not served if no more is cached."""


class Work(msgspec.Struct, frozen=True):
    """A checked request. Choice `i` of prompt `p` has the index `p * n + i`."""

    kind: Kind
    id: str
    """`chatcmpl-...` or `cmpl-...`, as answered in every body and chunk."""
    model: str
    """The model's name as answered, which is not always the one that was asked for."""
    prompts: tuple[Prompt, ...]
    stream: bool = False
    include_usage: bool = False
    """A stream ends with a chunk that holds the usage."""
    continuous_usage: bool = False
    """Every chunk of a stream holds the usage so far; only together with `include_usage`."""
    role: str = "assistant"
    """Role of a chat answer."""
    prompt_only: bool = False
    """The client wants its prompt back and nothing generated (completions, `echo` with `max_tokens: 0`): one token is
    generated and counted, as in vLLM, and its text is not answered."""
    details: Details = Details()
    priority: int = 0
    """The lowest is served first where the policy of the scheduler asks for it."""
    lora: Adapter | None = None
    """The LoRA adapter that the request asks for by its model."""
    cache_salt: str | None = None
    """Only requests with the same salt share blocks of the KV cache."""
    reporting: Reporting = Reporting()
    reads_prefix_cache: bool = True
    """Blocks that other sequences have computed are used."""
    elsewhere: Elsewhere = Elsewhere()
    encoded: tuple[str, ...] = ()
    """Hashes of the images and the like that the server encodes for others."""
    rank: int | None = None
    """The engine that the request names, by its place among those of the server; otherwise the server chooses."""
    rejection: Exception | None = None
    """What the engine finds wrong once it gets the request. vLLM has begun the response by then: without streaming it
    is the answer, in a stream it is an error frame behind status 200."""

    @property
    def choices(self) -> int:
        """Answers of the whole request."""
        return len(self.prompts) * self.prompts[0].sampling.n
