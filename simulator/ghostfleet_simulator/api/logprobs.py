"""Log probabilities as JSON, field for field as vLLM 0.33 writes them.

The token that was said comes first, then the most likely ones; where it is one of them it is not repeated.
Source: vLLM 0.33 entrypoints/openai/{chat_completion,completion}/serving.py and entrypoints/generate/base/serving.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ghostfleet_simulator.runtime.work import Details, Kind, Work
from ghostfleet_simulator.text.logprobs import Candidate, Context, Vocabulary

_encode: Final = msgspec.json.Encoder().encode

Json = dict[str, Any]


def _shown(details: Details, context: Context, token_id: int) -> str:
    """A token as text, or as `token_id:<id>` where the client wants that."""
    return f"token_id:{token_id}" if details.as_token_ids else context.text(token_id)


def _bytes(text: str) -> list[int]:
    return list(text.encode(errors="replace"))


class AnswerLogprobs:
    """Logprobs of the tokens of one answer, in turn."""

    def __init__(self, work: Work, vocabulary: Vocabulary, prompt: Sequence[int]) -> None:
        self._kind = work.kind
        self._details = work.details
        self._prompt_only = work.prompt_only
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._context = Context(vocabulary, prompt)
        self._offset = 0
        self._echo = work.details.echo

    def told(self, token_ids: Sequence[int]) -> bytes:
        """The `logprobs` of the next tokens of the answer; of the prompt before the first, where it is echoed."""
        if self._kind is Kind.CHAT:
            return _encode({"content": [self._chat(token_id) for token_id in token_ids]})
        tokens: list[str] = []
        found: list[Json | None] = []
        chosen: list[float | None] = []
        if self._echo:
            self._echo = False
            context = Context(self._vocabulary)
            for position, token_id in enumerate(self._prompt):
                self._completion(context, token_id, tokens, chosen, found, first=position == 0)
            token_ids = () if self._prompt_only else token_ids
        for token_id in token_ids:
            self._completion(self._context, token_id, tokens, chosen, found)
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return _encode({"text_offset": offsets, "token_logprobs": chosen, "tokens": tokens, "top_logprobs": found})

    def _candidates(self, context: Context, token_id: int, count: int) -> list[Candidate]:
        details = self._details
        return context.candidates(token_id, count, among=details.logprob_token_ids, greedy=details.greedy)

    def _chat(self, token_id: int) -> Json:
        details, context = self._details, self._context
        count = details.logprobs or 0
        found = self._candidates(context, token_id, count)
        text = context.text(token_id)
        limit = len(found) if details.logprob_token_ids is not None or count < 0 else count
        top = []
        for candidate in found[:limit]:
            shown = _shown(details, context, candidate.token_id)
            top.append({"token": shown, "logprob": candidate.logprob, "bytes": _bytes(shown)})
        shown = _shown(details, context, token_id)
        context.advance(token_id)
        return {"token": shown, "logprob": found[0].logprob, "bytes": _bytes(text), "top_logprobs": top}

    def _completion(
        self,
        context: Context,
        token_id: int,
        tokens: list[str],
        chosen: list[float | None],
        top: list[Json | None],
        *,
        first: bool = False,
    ) -> None:
        details = self._details
        if first:  # nothing comes before it that would make it likely, or complete a part of a character
            tokens.append(f"token_id:{token_id}" if details.as_token_ids else self._vocabulary.text(token_id))
            chosen.append(None)
            top.append(None)
        else:
            tokens.append(_shown(details, context, token_id))
            if context is self._context:
                found = self._candidates(context, token_id, details.logprobs or 0)
            else:
                found = context.candidates(token_id, details.prompt_logprobs or 0)
            wanted = details.logprobs or 0
            limit = len(found) if details.logprob_token_ids is not None or wanted < 0 else wanted + 1
            chosen.append(found[0].logprob)
            top.append({_shown(details, context, c.token_id): c.logprob for c in found[:limit]})
        context.advance(token_id)


def prompt_logprobs(vocabulary: Vocabulary, prompt: Sequence[int], count: int) -> bytes:
    """`prompt_logprobs`: nothing for the first token, then the token and the `count` most likely ones by their ids."""
    context = Context(vocabulary)
    positions: list[Json | None] = []
    for token_id in prompt:
        if positions:
            found = context.candidates(token_id, count)
            positions.append(
                {
                    str(c.token_id): {"logprob": c.logprob, "rank": c.rank, "decoded_token": context.text(c.token_id)}
                    for c in found
                }
            )
        else:
            positions.append(None)
        context.advance(token_id)
    return _encode(positions)
