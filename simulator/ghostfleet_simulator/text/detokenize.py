"""Tokens of one sequence to text, with the stop strings of its request."""

from __future__ import annotations

from collections.abc import Sequence

from ghostfleet_simulator.text.tokenizer import Tokenizer


class Detokenizer:
    """Turns the tokens of one sequence into deltas of text and ends it at a stop string.

    The rules are vLLM's (0.33, v1/engine/detokenizer.py):

    * Text is held back while its last character is incomplete. If the sequence ends there, it is never shown.
    * A match must be complete only after `min_tokens` tokens; it may begin before. Of several matches the one that ends
      first counts, of those the first in `stop`. The text ends before it, or behind it with
      `include_stop_str_in_output`.
    * Unless the stop string is shown, the last max(len(stop)) - 1 characters are held back, so that no part of one
      leaks.
    * The token that ended the sequence (end of sequence or stop token) has no text, unless
      `include_stop_str_in_output`.

    Tokens behind a match are not read; `token_count` counts those that were, up to and with the one that completed the
    match.
    """

    __slots__ = (
        "_ended",
        "_held",
        "_include",
        "_min_tokens",
        "_reach",
        "_stop",
        "_stream",
        "_tail",
        "stop_string",
        "token_count",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        include_stop_str_in_output: bool = False,
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
    ) -> None:
        if "" in stop:
            raise ValueError("stop cannot contain an empty string.")
        self._stream = tokenizer.text_stream(skip_special_tokens)
        self._stop = tuple(stop)
        self._include = include_stop_str_in_output
        self._min_tokens = min_tokens
        # Characters before new text in which a match may begin, and their number held back.
        self._reach = max(map(len, stop), default=1) - 1
        self._tail = ""
        self._held = 0
        self._ended = False
        self.stop_string: str | None = None
        """The stop string that was found."""
        self.token_count = 0
        """Tokens read."""

    def feed(self, token_ids: Sequence[int], *, finished: bool = False, stop_token: bool = False) -> str:
        """The text to send after these tokens; all that is left if they bring a stop string or it has `finished`.

        With `stop_token` the last of them ended the sequence, which finishes it. Nothing may be fed after the end but
        what the same step brought; it is not read.
        """
        finished = finished or stop_token
        parts = []
        last = len(token_ids) - 1
        for index, token_id in enumerate(token_ids):
            if self._ended:
                break
            hidden = stop_token and index == last and not self._include
            self.token_count += 1
            new = "" if hidden else self._stream.step(token_id)
            if not self._stop:
                parts.append(new)
            elif new:
                parts.append(self._released(new))
        if finished and not self._ended:
            parts.append(self._rest())
        return "".join(parts)

    def _rest(self) -> str:
        """What was held back, at the end."""
        self._ended = True
        return self._tail[len(self._tail) - self._held :]

    def _released(self, new: str) -> str:
        """Take in `new` text; what of all text so far may be sent now."""
        window = self._tail + new
        sent = len(self._tail) - self._held
        if self.token_count > self._min_tokens and (end := self._match(window, len(new))) is not None:
            self._ended = True
            return window[sent:end]
        held = 0 if self._include else min(self._reach, len(window))
        released = window[sent : len(window) - held]
        self._held = held
        self._tail = window[len(window) - self._reach :] if len(window) > self._reach else window
        return released

    def _match(self, window: str, new: int) -> int | None:
        """Where the text ends if a stop string became complete in the last `new` characters of `window`."""
        found: tuple[int, int, str] | None = None
        for stop in self._stop:
            start = window.find(stop, max(len(window) + 1 - new - len(stop), 0))
            if start >= 0 and (found is None or start + len(stop) < found[0]):
                found = (start + len(stop), start, stop)
        if found is None:
            return None
        end, start, self.stop_string = found
        return end if self._include else start
