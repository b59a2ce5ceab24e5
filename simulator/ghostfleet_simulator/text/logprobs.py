"""Made-up log probabilities, as a model would give them: the same context always has the same.

What a context gives is drawn from a hash of all its tokens and depends on nothing else, neither on the seed of a server
nor on the request. The most likely token has a probability from 0.5 to 0.98; those behind it share what is left by
a power law, so that any number of them adds up to less than 1. Which token says what is chosen from the same hash. A
token that was said anyway stands where a draw from that very distribution puts it: mostly first.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from ghostfleet_simulator.text.lengths import SplitMix64
from ghostfleet_simulator.text.tokenizer import Tokenizer

_CONTEXT: Final = 4
"""Tokens that vLLM looks back to make up a character, enough for any in UTF-8."""
_REPLACEMENT: Final = "\ufffd"


class Candidate(NamedTuple):
    """A token at one position: `rank` 1 is the most likely one."""

    token_id: int
    logprob: float
    rank: int


class Vocabulary:
    """What logprobs say of tokens; made once per tokenizer (`Tokenizer.derived`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self.every: Sequence[int] = range(tokenizer.vocab_size)
        self.words = [
            token_id
            for token_id in self.every
            if token_id not in tokenizer.special_ids and not self.text(token_id).endswith(_REPLACEMENT)
        ]
        """Tokens that may stand beside the one that was said: whole characters only."""

    def text(self, token_id: int) -> str:
        """Text of one token alone, special ones spelt out; U+FFFD stands for a part of a character."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text

    def text_in(self, token_id: int, before: Sequence[int]) -> str:
        """Text of a token behind others: a character that spans tokens belongs to the one that completes it.

        Source: vLLM 0.33 v1/engine/logprobs.py, `_correct_decoded_token`.
        """
        text = self.text(token_id)
        if not text.endswith(_REPLACEMENT):
            return text
        decode = self._tokenizer.decode
        for count in range(1, min(len(before), _CONTEXT) + 1):
            context = list(before[len(before) - count :])
            whole = decode([*context, token_id], skip_special_tokens=False)
            if whole.endswith(_REPLACEMENT):
                continue
            clean = len(context)
            while clean and self.text(context[clean - 1]).endswith(_REPLACEMENT):
                clean -= 1
            prefix = decode(context[:clean], skip_special_tokens=False) if clean else ""
            return whole.removeprefix(prefix)
        return ""


class Context:
    """The distribution behind some tokens, moved on token by token."""

    __slots__ = ("_hash", "_last", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, tokens: Sequence[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._hash = crc32(array("q", tokens).tobytes())
        self._last = list(tokens[-_CONTEXT:])

    def text(self, token_id: int) -> str:
        """Text of a token that stands here."""
        return self._vocabulary.text_in(token_id, self._last)

    def advance(self, token_id: int) -> None:
        """Go behind a token."""
        self._hash = crc32(array("q", (token_id,)).tobytes(), self._hash)
        self._last = [*self._last[1 - _CONTEXT :], token_id]

    def candidates(
        self, said: int, count: int, *, among: Sequence[int] | None = None, greedy: bool = False
    ) -> list[Candidate]:
        """The token that was said, then the `count` most likely ones, itself left out if it is among them.

        That is vLLM's order. `among` names the tokens that follow instead; -1 as `count` is the whole vocabulary. With
        `greedy` the token said is the most likely one.
        """
        rng = SplitMix64(self._hash)
        first = 0.5 + 0.48 * rng.uniform()
        slope = 1.5 + rng.uniform()
        words: Sequence[int] = self._vocabulary.words
        start, stride = rng.below(len(words)), 1 + rng.below(max(1, len(words) - 1))
        # A draw of its own for the token, so that two that are said here stand apart.
        own = SplitMix64(self._hash, said)
        rank = 1
        if not greedy and own.uniform() >= first:
            rank = 1 + min(int((1.0 - own.uniform()) ** (-1.0 / (slope - 1.0))), len(words) - 1)
        head = Candidate(said, _logprob(first, slope, rank), rank)
        if among is not None:
            # Behind the likely ones, where together they stay negligible.
            return [head, *(self._unlikely(token_id, first) for token_id in dict.fromkeys(among) if token_id != said)]
        if count < 0:
            count = len(self._vocabulary.every)
        if count > len(words):
            words, start, stride = self._vocabulary.every, 0, 1
        others = _others(words, start, stride, said)
        ranks = (number for number in range(1, count + 1) if number != rank)
        return [head, *(Candidate(i, _logprob(first, slope, r), r) for r, i in zip(ranks, others, strict=False))]

    def _unlikely(self, token_id: int, first: float) -> Candidate:
        rng = SplitMix64(self._hash, token_id)
        logprob = math.log(1.0 - first) - 8.0 - 12.0 * rng.uniform()
        return Candidate(token_id, _float32(logprob), 2 + rng.below(len(self._vocabulary.words)))


def _logprob(first: float, slope: float, rank: int) -> float:
    if rank == 1:
        return _float32(math.log(first))
    # 1 + 1 / (slope - 1) is above the sum of all i ** -slope.
    share = math.log(1.0 - first) - math.log(1.0 + 1.0 / (slope - 1.0))
    return _float32(share - slope * math.log(rank - 1))


def _others(words: Sequence[int], start: int, stride: int, said: int) -> Iterator[int]:
    """All of `words` but `said`, each once, in an order that start and stride make."""
    count = len(words)
    while math.gcd(stride, count) != 1:
        stride += 1
    for number in range(count):
        token_id = words[(start + number * stride) % count]
        if token_id != said:
            yield token_id


def _float32(value: float) -> float:
    """As it comes out of a tensor."""
    return array("f", (value,))[0]
