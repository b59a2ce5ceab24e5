"""Answers of `/inference/v1/generate`, whole and as events.

Source: vLLM 0.33 entrypoints/scale_out/token_in_token_out/{protocol,serving}.py. Not a hot path: a chunk is made of a
dictionary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence as List
from typing import Any, Final

from ghostfleet_simulator.api.errors import ApiError, internal_error
from ghostfleet_simulator.api.injected import RawHeaders
from ghostfleet_simulator.api.logprobs import AnswerLogprobs
from ghostfleet_simulator.api.media import ec_transfer_params
from ghostfleet_simulator.api.mishap import Mishap
from ghostfleet_simulator.api.telling import told_of_prompt, transfer_of
from ghostfleet_simulator.api.token_responses import Choice, TokenResponse, frame
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Kind, Prompt, Work
from ghostfleet_simulator.text.answer import Answer
from ghostfleet_simulator.text.detokenize import Detokenizer
from ghostfleet_simulator.text.logprobs import Context, Vocabulary

Json = dict[str, Any]

_TOKENS: Final = "tokens"


class _Logprobs:
    """The `logprobs` of one choice: with token ids in the mode `tokens`, else as a chat has them."""

    def __init__(self, work: Work, prompt: Prompt, vocabulary: Vocabulary, mode: str) -> None:
        self._details = work.details
        self._context = Context(vocabulary, prompt.token_ids)
        as_chat = Work(Kind.CHAT, work.id, work.model, work.prompts, details=work.details)
        self._texts = None if mode == _TOKENS else AnswerLogprobs(as_chat, vocabulary, prompt.token_ids)

    def told(self, token_ids: List[int]) -> Json | None:
        """Of the next tokens of the answer."""
        if self._details.logprobs is None:
            return None
        if self._texts is not None:
            told: Json = json.loads(self._texts.told(token_ids))
            return told
        return {"content": [self._token(token_id) for token_id in token_ids]}

    def _token(self, token_id: int) -> Json:
        found = self._context.candidates(
            token_id,
            self._details.logprobs or 0,
            among=self._details.logprob_token_ids,
            greedy=self._details.greedy,
        )
        self._context.advance(token_id)
        top = [{"token_id": one.token_id, "logprob": one.logprob, "rank": one.rank} for one in found]
        return {**top[0], "top_logprobs": top}


class _Choice:
    """The output of one choice."""

    def __init__(
        self,
        answers: TokenAnswers,
        generation: Generation,
        seq: Sequence,
        answer: Answer,
        prompt: Prompt,
        index: int,
    ) -> None:
        self._answers = answers
        self._generation = generation
        self._seq = seq
        self._answer = answer
        self._index = index
        server = answers.server
        self._logprobs = _Logprobs(answers.work, prompt, server.tokenizer.derived(Vocabulary), answers.mode)
        self._detokenizer: Detokenizer | None = None
        if answers.mode != _TOKENS or prompt.sampling.stop:
            self._detokenizer = server.detokenizer(prompt.sampling)
        self._watch = bool(prompt.sampling.stop)
        self._sent = 0
        self._read = 0
        self._text = ""

    def token(self) -> None:
        """One more token is there."""
        seq, answers = self._seq, self._answers
        if not answers.streams or (self._sent and seq.produced - self._sent < answers.work.details.interval):
            if self._watch and self._read_on(finished=False) is not None:
                self._stop()
            return
        if answers.connection.flow.write_paused:
            return
        if self._read_on(finished=False) is not None:
            self._stop()
        else:
            answers.write(self._fields(finished=False))

    def finish(self) -> None:
        """The last token is there."""
        if (stop_string := self._read_on(finished=True)) is not None:
            self._seq.finish_reason, self._seq.stop_reason = "stop", stop_string
        self._end()

    def whole(self) -> Json:
        """The finished choice, where it is not streamed."""
        return self._fields(finished=True)

    def _stop(self) -> None:
        assert self._detokenizer is not None  # noqa: S101 - for the type checker; a stop string was found by it
        self._generation.stop(self._seq, self._detokenizer.stop_string or "")
        self._end()

    def _end(self) -> None:
        if self._answers.streams and self._seq.finish_reason != "error":
            self._answers.write(self._fields(finished=True))
        self._generation.ended(self._seq)

    def _read_on(self, *, finished: bool) -> str | None:
        """Read the new tokens as text; the stop string that was found, if one was."""
        if self._detokenizer is None:
            return None
        start, self._read = self._read, self._seq.produced
        ids = self._answer.token_ids(start, self._read)
        by_token = finished and self._seq.finish_reason == "stop"
        self._text += self._detokenizer.feed(ids, finished=finished, stop_token=by_token)
        return self._detokenizer.stop_string

    def _fields(self, *, finished: bool) -> Json:
        seq, mode = self._seq, self._answers.mode
        start, self._sent = self._sent, seq.produced
        token_ids = list(self._answer.token_ids(start, seq.produced))
        text, self._text = self._text, ""
        fields: Json = {
            "index": self._index,
            "finish_reason": (seq.finish_reason or "stop") if finished else None,
            "stop_reason": seq.stop_reason if finished else None,
            "token_ids": token_ids,
            "routed_experts": None,
            "sampling_mask": None,
            "weight_versions": None,
        }
        if mode == "text":
            fields["text"] = text
        elif mode == "derender":
            fields["message"] = {"role": "assistant", "content": text} | dict.fromkeys(
                ("refusal", "annotations", "audio", "function_call", "reasoning")
            )
        return fields | {"logprobs": self._logprobs.told(token_ids)}


class TokenAnswers(TokenResponse):
    """The response to one request."""

    def __init__(
        self,
        server: SimulatedServer,
        work: Work,
        mode: str,
        arrival_us: int,
        headers: RawHeaders = (),
        mishap: Mishap | None = None,
    ) -> None:
        """`mode` is the request's `output_mode`."""
        super().__init__(server, work, arrival_us, headers, mishap)
        self.mode = mode
        self._prompt_told = not work.details.token_ids

    def choice(self, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> _Choice:
        """The output of an answer that is about to begin."""
        # Known before the first token comes: a chunk with usage counts the tokens of its sequence.
        self._generation = generation
        return _Choice(self, generation, seq, answer, prompt, index)

    def write(self, choice: Json) -> None:
        """Send a chunk with this choice."""
        chunk: Json = {"request_id": self.work.id, "usage": None}
        if self.work.continuous_usage:
            produced = self._generation.sequences[choice["index"]].produced
            chunk["usage"] = _usage(len(self.work.prompts[0].token_ids), produced)
        if not self._prompt_told:
            self._prompt_told = True
            chunk["prompt_token_ids"] = self.work.prompts[0].token_ids
        self.put({**chunk, "output_mode": self.mode, "choices": [choice]})

    def refused(self, rejection: Exception) -> bytes:
        """An error that vLLM finds when the stream has begun."""
        return rejection.completion_frame() if isinstance(rejection, ApiError) else b""

    def last(self, generation: Generation) -> bytes:
        """The usage, where it was asked for, or the error that ended an answer."""
        if any(seq.finish_reason == "error" for seq in generation.sequences):
            if not self.work.stream:
                raise internal_error()
            return internal_error().completion_frame()
        if not self.work.include_usage:
            return b""
        usage = _without_null(self._usage(generation))
        return frame({"request_id": self.work.id, "usage": usage, "output_mode": self.mode, "choices": []})

    def _usage(self, generation: Generation) -> Json:
        sequences = generation.sequences
        usage = _usage(len(self.work.prompts[0].token_ids), sum(seq.produced for seq in sequences))
        if self.server.config.api.enable_prompt_tokens_details:
            usage["prompt_tokens_details"] = {
                "cached_tokens": sequences[0].told_cached_tokens,
                "created_cache_tokens": None,
                "multimodal_tokens": None,
            }
        return usage

    def together(self, generation: Generation, choices: List[Choice]) -> Json:
        """All answers in one piece."""
        work, prompt = self.work, self.work.prompts[0]
        return {
            "request_id": work.id,
            "model": work.model,
            "created": int(time.time()),
            "usage": self._usage(generation),
            "prompt_logprobs": json.loads(told_of_prompt(work, prompt, self.server)),
            "prompt_token_id_logprobs": None,
            "prompt_token_ids": prompt.token_ids if work.details.token_ids else None,
            "mm_placeholders": None,
            "metrics": None,
            "kv_transfer_params": json.loads(transfer_of(generation.sequences[0], self.server)),
            "ec_transfer_params": ec_transfer_params(work.encoded),
            "output_mode": self.mode,
            "choices": [choice.whole() for choice in choices],
        }


def _usage(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def _without_null(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_null(item) for key, item in value.items() if item is not None}
