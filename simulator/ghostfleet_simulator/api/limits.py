"""How long prompts and answers may be.

Source: vLLM 0.33 renderers/params.py, entrypoints/utils.py (`get_max_tokens`).
"""

from __future__ import annotations

from ghostfleet_simulator.api.errors import ApiError, bad_request, validation_error
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.requests import ChatCompletionRequest, CompletionRequest
from ghostfleet_simulator.text.tokenizer import NotText


def encoded(text: str, facts: Facts, *, add_special_tokens: bool) -> list[int]:
    """Tokens of a text. Raises `ApiError` for a string that is no text."""
    try:
        return facts.tokenizer.encode(text, add_special_tokens)
    except NotText as error:
        raise bad_request(str(error)) from None


class Limits:
    """How long prompts and answers of one request may be (vLLM's `TokenizeParams` and `get_max_tokens`)."""

    def __init__(
        self,
        request: ChatCompletionRequest | CompletionRequest,
        facts: Facts,
        first: int | None,
        second: int | None,
    ) -> None:
        self.asked = second if first is None else first
        self._keep = request.truncate_prompt_tokens
        self._side = request.truncation_side or "left"
        self._longest = facts.max_model_len
        self._facts = facts
        self._special = request.add_special_tokens
        longest = self._longest
        if self.asked is not None and self.asked > longest:
            name = "max_tokens" if first is None else "max_completion_tokens"
            raise validation_error(
                f"{name}={self.asked} cannot be greater than max_model_len={longest}. "
                "Please request fewer output tokens.",
                name,
                self.asked,
            )
        if self._keep is not None and self._keep > longest:
            raise validation_error(
                f"truncate_prompt_tokens={self._keep} cannot be greater than max_model_len = {longest}. "
                "Please request a smaller truncation size.",
                "truncate_prompt_tokens",
                self._keep,
            )
        # A prompt cut down to the whole context would leave nothing to answer with.
        self._reserve = 0 if self.asked == 0 else 1
        self._most = longest if facts.conduct.clamps_max_tokens else longest - (self.asked or 0)
        """Most tokens of a prompt."""

    def checked_tokens(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a prompt, cut down where the request says so. Raises `ApiError` where it is too long."""
        longest = self._longest
        if isinstance(prompt, str):
            chars = self._facts.max_prompt_chars
            if self._keep is None and len(prompt) > chars:
                raise validation_error(
                    f"This model's maximum context length is {longest} tokens. However, your prompt contains "
                    f"{len(prompt)} characters (more than {chars} characters, which is the upper bound for {longest} "
                    "input tokens). Please reduce the length of the input prompt.",
                    "input_text",
                    len(prompt),
                )
            ids = encoded(prompt, self._facts, add_special_tokens=self._special)
            # vLLM's tokenizer stops one token behind the limit, hence its "at least".
            count = min(len(ids), self._most + 1)
        else:
            ids, count = prompt, len(prompt)
        if self._keep is not None:
            keep = max(0, longest - self._reserve) if self._keep < 0 else self._keep
            if keep < len(ids):
                ids = ids[:keep] if self._side == "right" else ids[len(ids) - keep :]
            return ids
        if count > self._most:
            at_least = "at least " if count == self._most + 1 else ""
            if not self._facts.conduct.clamps_max_tokens:
                raise self._no_room(count, at_least)
            raise validation_error(
                f"This model's maximum context length is {longest} tokens. However, your prompt contains "
                f"{at_least}{count} input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt.",
                "input_tokens",
                count,
            )
        return ids

    def _no_room(self, count: int, at_least: str) -> ApiError:
        """What vLLM up to 0.31 says where prompt and answer together are too long."""
        asked = self.asked or 0
        return validation_error(
            f"This model's maximum context length is {self._longest} tokens. However, you requested {asked} output "
            f"tokens and your prompt contains {at_least}{count} input tokens, for a total of {at_least}{count + asked} "
            "tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
            "input_tokens",
            count,
        )

    def max_tokens(self, prompt_tokens: int) -> int:
        """Most tokens that an answer to a prompt of this length may have; 0 where the prompt fills the context."""
        room = self._longest - prompt_tokens
        return room if self.asked is None else min(room, self.asked)
