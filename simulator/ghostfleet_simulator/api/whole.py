"""Answers that are sent in one piece."""

from __future__ import annotations

import time
from collections.abc import Iterable
from copy import copy
from itertools import islice
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ghostfleet_simulator.api.admission import refused_prompt
from ghostfleet_simulator.api.errors import internal_error
from ghostfleet_simulator.api.injected import RawHeaders
from ghostfleet_simulator.api.mishap import Mishap, send_whole
from ghostfleet_simulator.api.protocol import connection_of
from ghostfleet_simulator.api.responses import NOTHING, Choice, body_of, escaped
from ghostfleet_simulator.api.telling import (
    Teller,
    load_headers,
    teller_for,
    times_of,
    told_of_prompt,
    transfer_of,
    usage_of,
)
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.driver import Output
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Prompt, Work
from ghostfleet_simulator.text.answer import Answer
from ghostfleet_simulator.text.detokenize import Detokenizer

_CONTENT_TYPE: Final = (b"content-type", b"application/json")


class CollectedChoice:
    """The output of one choice of a response in one piece.

    Its text is made when the sequence has ended, unless stop strings have to be looked for at every token.
    """

    __slots__ = ("_answer", "_detokenizer", "_generation", "_read", "_seq", "_teller", "_text", "_watch")

    def __init__(
        self,
        generation: Generation,
        seq: Sequence,
        answer: Answer,
        detokenizer: Detokenizer | None,
        teller: Teller | None,
        *,
        watch: bool,
    ) -> None:
        """`detokenizer` is there where the fragments of the answer are not its text."""
        self._teller = teller
        self._generation = generation
        self._seq = seq
        self._answer = answer
        self._detokenizer = detokenizer
        self._watch = watch
        self._read = 0
        self._text = ""

    def token(self) -> None:
        """Look for a stop string in the text with the new token."""
        if self._watch and (stop_string := self._feed(finished=False)) is not None:
            self._generation.stop(self._seq, stop_string)
            self._generation.ended(self._seq)

    def finish(self) -> None:
        """Complete the text."""
        if (stop_string := self._feed(finished=True)) is not None:
            self._seq.finish_reason, self._seq.stop_reason = "stop", stop_string
        self._generation.ended(self._seq)

    def choice(self, index: int, work: Work, prompt: Prompt, prompt_logprobs: bytes, server: SimulatedServer) -> Choice:
        """The answer as choice `index` of the body. Raises `ApiError` where the engine could not give it."""
        seq = self._seq
        if seq.finish_reason == "error":
            raise internal_error()
        text = b""
        if not work.prompt_only:
            text = self._answer.text(0, seq.produced) if self._detokenizer is None else escaped(self._text)
        return Choice(
            index,
            escaped(prompt.prefix) + text if prompt.prefix else text,
            seq.finish_reason or "abort",
            seq.stop_reason,
            NOTHING if self._teller is None else self._teller.told(self._answer.token_ids(0, seq.produced)),
            prompt_logprobs,
            transfer_of(seq, server),
        )

    def _feed(self, *, finished: bool) -> str | None:
        if self._detokenizer is None:
            return None
        start, self._read = self._read, self._seq.produced
        ids = self._answer.token_ids(start, self._read)
        by_token = finished and self._seq.finish_reason == "stop"
        self._text += self._detokenizer.feed(ids, finished=finished, stop_token=by_token)
        return self._detokenizer.stop_string


def collected(
    server: SimulatedServer, work: Work, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt
) -> CollectedChoice:
    """The output of one choice of `work`."""
    sampling = prompt.sampling
    detokenizer = None if sampling.plain else server.detokenizer(sampling)
    teller = teller_for(work, prompt, server)
    return CollectedChoice(generation, seq, answer, detokenizer, teller, watch=bool(sampling.stop))


def whole_body(
    server: SimulatedServer, work: Work, generation: Generation, choices: Iterable[CollectedChoice]
) -> bytes:
    """The body of the answer to `work`, all of whose choices have ended."""
    numbered = enumerate(choices)
    told = []
    for prompt in work.prompts:
        logprobs = told_of_prompt(work, prompt, server)
        told += [
            choice.choice(index, work, prompt, logprobs, server)
            for index, choice in islice(numbered, prompt.sampling.n)
        ]
    usage = usage_of(work, generation, server)
    return body_of(work, told, usage, int(time.time()), server.fingerprint, times_of(generation, server))


class WholeAnswer(Response):
    """The response to one request that does not stream: begun when all of its sequences have ended."""

    media_type = "application/json"

    def __init__(
        self,
        server: SimulatedServer,
        work: Work,
        arrival_us: int,
        headers: RawHeaders = (),
        mishap: Mishap | None = None,
    ) -> None:
        # Not by way of `super`: it would make headers of a body, and there is none yet.
        self.status_code, self.background = 200, None
        self.raw_headers = [_CONTENT_TYPE, *headers]
        self._mishap = mishap
        self._server, self._work, self._arrival_us = server, work, arrival_us

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of an ASGI application
        """Send the response; nothing is sent to a client that has gone away, whose sequences are aborted at once."""
        work, connection, mishap = self._work, connection_of(scope), self._mishap
        choices: list[CollectedChoice] = []

        def output(generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, _index: int) -> Output:
            choice = collected(self._server, work, generation, seq, answer, prompt)
            choices.append(choice)
            return choice if mishap is None else mishap.output(choice, generation, seq)

        rejection = work.rejection or refused_prompt(self._server, work)
        if rejection is not None:
            raise copy(rejection)  # its traceback holds this answer and so the work, which holds the rejection
        generation = self._server.generate(work, self._arrival_us, output)
        try:
            await connection.attend(generation)
        finally:
            if mishap is not None:
                mishap.close()
        body = whole_body(self._server, work, generation, choices)
        self.raw_headers += load_headers(scope["headers"], self._server)
        await send_whole(connection, send, self.raw_headers, body, mishap)
