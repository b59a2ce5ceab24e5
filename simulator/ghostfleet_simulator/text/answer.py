"""What a server answers, decided before generation, so that the engine only counts tokens."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Literal, Protocol, cast

from ghostfleet_simulator.config import AnswerLength, AnswerMode
from ghostfleet_simulator.config import Answers as AnswerSettings
from ghostfleet_simulator.text.lengths import Lengths, SplitMix64
from ghostfleet_simulator.text.pieces import json_fragment
from ghostfleet_simulator.text.tokenizer import SHIPPED, Tokenizer

Chunk = tuple[Sequence[int], Sequence[bytes]]
"""Some tokens: their ids and their fragments, one each."""

_AHEAD = 64
"""Tokens made at least whenever some are missing."""


class Answer:
    """The tokens of one answer, made as they are asked for, so that a long one costs nothing up front.

    `chunks` yields what is said, `shown` tokens of which are part of the answer; `end`, if given, is the token behind
    them that ends it and has no text: end of sequence, or the stop token that `stop_reason` names. `length` counts it.
    """

    __slots__ = ("_chunks", "_end", "_ids", "_shown", "finish_reason", "fragments", "length", "stop_reason")

    def __init__(
        self, chunks: Iterator[Chunk], shown: int, end: int | None = None, stop_reason: int | None = None
    ) -> None:
        self._chunks: Iterator[Chunk] | None = chunks
        self._shown = shown
        self._end = end
        self._ids: list[int] = []
        self.fragments: list[bytes] = []
        """Those that have been made, in this one list; `fragment` makes more."""
        self.length: int = shown + (end is not None)
        """Completion tokens."""
        self.finish_reason: Literal["stop", "length"] = "length" if end is None else "stop"
        self.stop_reason: int | str | None = stop_reason

    def fragment(self, index: int) -> bytes:
        """Text that the token at `index` brings, as it stands in a JSON string without its quotes.

        Empty for the token that ends the answer and while a character is incomplete; the token that completes it brings
        all of it. Raises `IndexError` from `length` on.
        """
        self._make(index)
        return self.fragments[index]

    def token_ids(self, start: int, stop: int) -> list[int]:
        """Ids of the tokens from `start` up to, but without, `stop`, at most `length`."""
        self._make(min(stop, self.length) - 1)
        return self._ids[start:stop]

    def text(self, start: int, stop: int) -> bytes:
        """The fragments from `start` up to, but without, `stop` in one."""
        self._make(min(stop, self.length) - 1)
        return b"".join(self.fragments[start:stop])

    def _make(self, index: int) -> None:
        """Have the token at `index`, if the answer is that long."""
        ids, fragments = self._ids, self.fragments
        while len(ids) <= index and self._chunks is not None:
            target = min(index + _AHEAD, self._shown)
            while len(ids) < target:
                more_ids, more_fragments = next(self._chunks)
                ids.extend(more_ids)
                fragments.extend(more_fragments)
            if len(ids) >= self._shown:
                del ids[self._shown :], fragments[self._shown :]
                if self._end is not None:
                    ids.append(self._end)
                    fragments.append(b"")
                self._chunks = None


class Answers(Protocol):
    """A way of answering; made once per server."""

    def answer(
        self,
        prompt_ids: Sequence[int],
        echo: str | Sequence[int],
        /,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop_token_ids: Collection[int] = (),
        max_tokens_given: bool = True,
        seed: int | None = None,
        request_index: int = 0,
        choice_index: int = 0,
    ) -> Answer:
        """The answer to one choice of one request.

        `echo` is what a server that repeats its input says: the prompt of a completion, the last message's text of a
        chat. `max_tokens`, at least 1, is the limit in force, `max_tokens_given` whether the request set it. Lengths
        and endings are vLLM's: no end of sequence and no stop token comes before position `min_tokens`; with
        `ignore_eos` no end of sequence comes at all; the end of sequence is looked for first, then stop tokens, then
        the limit (vLLM 0.33 v1/core/sched/utils.py).

        The same `seed`, prompt and parameters give the same answer on every server; without a seed (or with -1, which
        is none in vLLM) it depends on the server's own and on `request_index`. `choice_index` tells the `n` choices of
        a request apart.
        """


class EchoAnswers:
    """Says what it was told: all of it, or as much as the limit allows.

    An answer that has to be longer (`min_tokens`, `ignore_eos`) says it again and again. Special tokens of the input
    are left out, because an end of sequence among them would end the answer; an input without any other token counts as
    a full stop where something has to be said.
    """

    __slots__ = ("_ending", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, _seed: int = 0) -> None:
        self._tokenizer = tokenizer
        self._ending = _Ending(tokenizer, tokenizer.encode(".", add_special_tokens=False))

    def answer(
        self,
        _prompt_ids: Sequence[int],
        echo: str | Sequence[int],
        /,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop_token_ids: Collection[int] = (),
        **_chance: object,
    ) -> Answer:
        """See `Answers.answer`; the parameters of chance change nothing."""
        ids = self._tokenizer.encode(echo, add_special_tokens=False) if isinstance(echo, str) else echo
        if max(ids, default=0) >= self._tokenizer.vocab_size or not self._tokenizer.special_ids.isdisjoint(ids):
            special, size = self._tokenizer.special_ids, self._tokenizer.vocab_size
            ids = [token_id for token_id in ids if token_id not in special and token_id < size]
        said = ids or self._ending.substitutes
        return self._ending.apply(
            lambda: _fragmented(self._tokenizer, _slices(said)),
            len(ids),
            said,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            ignore_eos=ignore_eos,
            stop_token_ids=stop_token_ids,
        )


class RandomAnswers:
    """Says sentences picked at random; their number of tokens is drawn from `length` (see `lengths`).

    With the shipped tokenizer every answer, cut wherever it may be, reads back as the very tokens it was made of, so a
    client that counts tokens by encoding the text again counts what `usage` says (less the end of sequence, which has
    no text).
    """

    __slots__ = ("_ending", "_lengths", "_seed", "_sentences")

    def __init__(
        self,
        tokenizer: Tokenizer,
        seed: int,
        sentences: Sentences | None = None,
        *,
        length: AnswerLength | None = None,
    ) -> None:
        self._lengths = Lengths(length or AnswerLength())
        self._sentences = sentences or tokenizer.derived(Sentences)
        self._seed = seed
        self._ending = _Ending(tokenizer, self._sentences.common)

    def answer(
        self,
        prompt_ids: Sequence[int],
        _echo: str | Sequence[int],
        /,
        *,
        max_tokens: int,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop_token_ids: Collection[int] = (),
        max_tokens_given: bool = True,
        seed: int | None = None,
        request_index: int = 0,
        choice_index: int = 0,
    ) -> Answer:
        """See `Answers.answer`. An answer that ends by itself shows one token at least."""
        if seed is None or seed == -1:
            rng = SplitMix64(self._seed, request_index, choice_index)
        else:
            # vLLM gives choice i of a seeded request the seed + i.
            rng = SplitMix64(seed + choice_index, zlib.crc32(array("q", prompt_ids).tobytes()))
        start = rng.next()
        drawn = max_tokens
        if not ignore_eos:
            drawn = self._lengths.draw(rng, max_tokens, limit_given=max_tokens_given)
        return self._ending.apply(
            lambda: self._sentences.walk(start),
            drawn if drawn == max_tokens else max(drawn - 1, 1),
            self._sentences.vocabulary,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            ignore_eos=ignore_eos,
            stop_token_ids=stop_token_ids,
        )


class EncoderAnswers:
    """Says nothing but `!`, as a vLLM without a language model does: up to the limit, or once where there is none."""

    __slots__ = ("_echo",)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._echo = EchoAnswers(tokenizer)

    def answer(
        self,
        prompt_ids: Sequence[int],
        _echo: str | Sequence[int],
        /,
        *,
        max_tokens: int,
        max_tokens_given: bool = True,
        **_other: object,
    ) -> Answer:
        """See `Answers.answer`; nothing else ends it."""
        return self._echo.answer(prompt_ids, "!", max_tokens=max_tokens if max_tokens_given else 1, ignore_eos=True)


def answers_of(settings: AnswerSettings, tokenizer: Tokenizer, seed: int, *, encoder_only: bool = False) -> Answers:
    """The way of answering that the settings describe."""
    if encoder_only:
        return EncoderAnswers(tokenizer)
    if settings.mode is AnswerMode.ECHO:
        return EchoAnswers(tokenizer)
    return RandomAnswers(tokenizer, seed, length=settings.length)


class Sentences:
    """Sentences to answer with, tokenised once; servers that share a tokenizer share them.

    `texts` defaults to those that ship with the package. Each is tokenised with the space before it, and without for
    the first.
    """

    __slots__ = ("_first", "_following", "common", "vocabulary")

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str] | None = None) -> None:
        if texts is None:
            texts = (Path(SHIPPED) / "sentences.txt").read_text(encoding="utf-8").splitlines()
        self._first = [_chunk(tokenizer, text) for text in texts]
        self._following = [_chunk(tokenizer, " " + text) for text in texts]
        counts: dict[int, int] = {}
        for ids, fragments in (*self._first, *self._following):
            for token_id, fragment in zip(ids, fragments, strict=True):
                # Whole words count for more: they stand in for others.
                counts[token_id] = counts.get(token_id, 0) + (1000 if fragment.startswith(b" ") else 1)
        self.vocabulary: frozenset[int] = frozenset(counts)
        """Every token that can be said."""
        self.common: tuple[int, ...] = tuple(sorted(counts, key=lambda token_id: (-counts[token_id], token_id)))
        """The same, the most common words first."""

    def walk(self, seed: int) -> Iterator[Chunk]:
        """Sentences without end, never the same one twice in a row."""
        rng = SplitMix64(seed)
        count = len(self._following)
        index = rng.below(count)
        yield self._first[index]
        while True:
            if count > 1:
                index = (index + 1 + rng.below(count - 1)) % count
            yield self._following[index]


class _Ending:
    """Where and why an answer ends; the same for every way of answering."""

    __slots__ = ("_eos", "_tokenizer", "substitutes")

    def __init__(self, tokenizer: Tokenizer, substitutes: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._eos = tokenizer.eos_token_id
        self.substitutes = substitutes

    def apply(
        self,
        chunks: Callable[[], Iterator[Chunk]],
        wanted: int,
        vocabulary: Collection[int],
        *,
        max_tokens: int,
        min_tokens: int,
        ignore_eos: bool,
        stop_token_ids: Collection[int],
    ) -> Answer:
        """The answer that says `wanted` tokens of `chunks`, all of `vocabulary`, as far as the request allows."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
        shown = max_tokens if ignore_eos else max(wanted, min_tokens)
        end = None if shown >= max_tokens else self._eos
        shown = min(shown, max_tokens)
        if stop_token_ids and (stops := frozenset(stop_token_ids)) and not stops.isdisjoint(vocabulary):
            return self._stopped(chunks(), shown, end, min_tokens, stops)
        return Answer(chunks(), shown, end)

    def _stopped(
        self, chunks: Iterator[Chunk], shown: int, end: int | None, min_tokens: int, stops: frozenset[int]
    ) -> Answer:
        """The answer with its tokens looked at: no stop token before `min_tokens`, the end at the first one after."""
        ids: list[int] = []
        stop: int | None = None
        while stop is None and len(ids) < shown:
            more = next(chunks)[0]
            for token_id in more[: shown - len(ids)]:
                if token_id not in stops:
                    ids.append(token_id)
                elif len(ids) < min_tokens:
                    ids.append(self._substitute(stops))
                else:
                    stop = token_id
                    break
        said = _fragmented(self._tokenizer, iter([ids]))
        return Answer(said, len(ids), end) if stop is None else Answer(said, len(ids), stop, stop)

    def _substitute(self, stops: frozenset[int]) -> int:
        """A token to say in place of one that must not come yet; vLLM masks it, so that the next best one comes."""
        allowed = (token_id for token_id in self.substitutes if token_id not in stops)
        special = self._tokenizer.special_ids
        every = (i for i in range(self._tokenizer.vocab_size) if i not in stops and i not in special)
        found = next(allowed, None)
        return found if found is not None else next(every, self._eos)


def _chunk(tokenizer: Tokenizer, text: str) -> Chunk:
    ids = tokenizer.encode(text, add_special_tokens=False)
    (chunk,) = _fragmented(tokenizer, iter([ids]))
    return chunk


def _slices(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """`ids` again and again, in pieces."""
    for start in cycle(range(0, len(ids), _AHEAD)):
        yield ids[start : start + _AHEAD]


def _fragmented(tokenizer: Tokenizer, chunks: Iterator[Sequence[int]]) -> Iterator[Chunk]:
    """Each chunk with its fragments; a character that spans tokens comes with the one that completes it."""
    known = tokenizer.pieces.fragments if tokenizer.pieces else None
    stream = None
    for ids in chunks:
        if stream is None and known is not None:
            fragments = [known[token_id] for token_id in ids]
            if None not in fragments:
                yield ids, cast("list[bytes]", fragments)
                continue
        stream = stream or tokenizer.text_stream()
        yield ids, [json_fragment(stream.step(token_id)) for token_id in ids]
