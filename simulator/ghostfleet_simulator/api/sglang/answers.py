"""Answers of `/generate`, whole and as events: text and tokens so far, and what is told of them.

Source: SGLang 0.5.10 srt/managers/tokenizer_manager.py. Not a hot path: a chunk is made of a dictionary.
"""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import Any, Final

from ghostfleet_simulator.api.errors import ApiError
from ghostfleet_simulator.api.injected import RawHeaders
from ghostfleet_simulator.api.mishap import Mishap
from ghostfleet_simulator.api.token_responses import Choice, TokenResponse, frame
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Prompt, Work
from ghostfleet_simulator.text.answer import Answer

Json = dict[str, Any]

_WEIGHTS: Final = "default"


class _Choice:
    """The output of one answer."""

    def __init__(
        self, answers: NativeAnswers, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int
    ) -> None:
        self._answers, self._generation, self._seq, self._answer, self._index = answers, generation, seq, answer, index
        self._prompt = prompt
        self._detokenizer = answers.server.detokenizer(prompt.sampling)
        self._watch = bool(prompt.sampling.stop)
        self._read = 0
        self._text = ""

    def token(self) -> None:
        """One more token is there."""
        answers = self._answers
        if answers.connection.flow.write_paused or not (answers.streams or self._watch):
            return
        if (stop_string := self._read_on(finished=False)) is not None:
            self._generation.stop(self._seq, stop_string)
            self._end()
        elif answers.streams:
            answers.write(self.whole(), self._index)

    def finish(self) -> None:
        """The last token is there."""
        if (stop_string := self._read_on(finished=True)) is not None:
            self._seq.finish_reason, self._seq.stop_reason = "stop", stop_string
        self._end()

    def _end(self) -> None:
        if self._answers.streams:
            self._answers.write(self.whole(), self._index)
        self._generation.ended(self._seq)

    def _read_on(self, *, finished: bool) -> str | None:
        start, self._read = self._read, self._seq.produced
        by_token = finished and self._seq.finish_reason == "stop"
        ids = self._answer.token_ids(start, self._read)
        self._text += self._detokenizer.feed(ids, finished=finished, stop_token=by_token)
        return self._detokenizer.stop_string

    def whole(self) -> Json:
        """All of the answer so far."""
        seq = self._seq
        meta: Json = {
            "id": self._answers.work.id if not self._answers.many else f"{self._answers.work.id}-{self._index}",
            "finish_reason": self._finish_reason(),
            "prompt_tokens": len(self._prompt.token_ids),
            "weight_version": _WEIGHTS,
            "total_retractions": seq.preemptions,
            "completion_tokens": seq.produced,
            "cached_tokens": seq.cached_tokens,
        }
        if seq.finish_reason:
            meta["e2e_latency"] = (self._answers.server.now_us() - seq.arrival_us) / 1e6
        return {"text": self._text, "output_ids": list(self._answer.token_ids(0, seq.produced)), "meta_info": meta}

    def _finish_reason(self) -> Json | None:
        seq = self._seq
        match seq.finish_reason:
            case None:
                return None
            case "length":
                return {"type": "length", "length": seq.produced}
            case "stop":
                last = self._answer.token_ids(seq.produced - 1, seq.produced)
                return {"type": "stop", "matched": last[0] if seq.stop_reason is None else seq.stop_reason}
            case _:
                return {"type": "abort", "message": "Unknown error", "status_code": None, "err_type": None}


class NativeAnswers(TokenResponse):
    """The response to one request."""

    def __init__(
        self,
        server: SimulatedServer,
        work: Work,
        arrival_us: int,
        *,
        many: bool,
        headers: RawHeaders = (),
        mishap: Mishap | None = None,
    ) -> None:
        """With `many` the answers are a list."""
        super().__init__(server, work, arrival_us, headers, mishap)
        self.many = many

    def choice(self, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> _Choice:
        """The output of an answer that is about to begin."""
        return _Choice(self, generation, seq, answer, prompt, index)

    def write(self, told: Json, index: int) -> None:
        """Send a chunk."""
        self.put({**told, "index": index} if self.many else told)

    def refused(self, rejection: Exception) -> bytes | None:
        """An error that SGLang finds when the stream has begun."""
        return frame({"error": {"message": str(rejection)}}) if isinstance(rejection, ApiError) else None

    def together(self, generation: Generation, choices: List[Choice]) -> Json | list[Json]:  # noqa: ARG002 - its answers say all
        """All answers in one piece."""
        return [choice.whole() for choice in choices] if self.many else choices[0].whole()
