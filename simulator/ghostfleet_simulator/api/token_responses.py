"""The life of a response whose answers are made of dictionaries: its head, its answers, its end.

For the routes that speak of tokens, vLLM's `/inference/v1/generate` and SGLang's `/generate`; they are not a hot path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as List
from copy import copy
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ghostfleet_simulator.api.admission import refused_prompt
from ghostfleet_simulator.api.injected import RawHeaders
from ghostfleet_simulator.api.mishap import Mishap, send_whole
from ghostfleet_simulator.api.protocol import Connection, connection_of
from ghostfleet_simulator.api.responses import DONE
from ghostfleet_simulator.api.token_requests import rendered_json
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.driver import Output
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Prompt, Work
from ghostfleet_simulator.text.answer import Answer

Json = dict[str, Any]


class Choice(Output, Protocol):
    """The output of one answer, which can also be told whole."""

    def whole(self) -> Json:
        """The finished answer, where it is not streamed."""


class TokenResponse(Response, ABC):
    """The response to one request."""

    connection: Connection

    def __init__(
        self,
        server: SimulatedServer,
        work: Work,
        arrival_us: int,
        headers: RawHeaders = (),
        mishap: Mishap | None = None,
    ) -> None:
        self.media_type = "text/event-stream" if work.stream else "application/json"
        super().__init__()
        del self.headers["content-length"]
        self.raw_headers += headers
        self._mishap, self._arrival_us = mishap, arrival_us
        self.server, self.work, self.streams = server, work, work.stream

    @abstractmethod
    def choice(self, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> Choice:
        """The output of an answer that is about to begin."""

    @abstractmethod
    def refused(self, rejection: Exception) -> bytes | None:
        """The frame that a stream tells this with; None where it has no stream at all."""

    def last(self, generation: Generation) -> bytes:  # noqa: ARG002 - for those that tell something
        """What a stream tells behind its answers. Raises `ApiError` for an answer in one piece that is none."""
        return b""

    @abstractmethod
    def together(self, generation: Generation, choices: List[Choice]) -> Json | list[Json]:
        """All answers in one piece."""

    def put(self, chunk: Json) -> None:
        """Send a chunk of a stream."""
        body = frame(chunk)
        self.server.outbox.put(self.connection, b"%x\r\n%b\r\n" % (len(body), body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of an ASGI application
        """Send the response; a client that goes away has its sequences aborted at once."""
        work, connection, mishap = self.work, connection_of(scope), self._mishap
        self.connection = connection if mishap is None or not work.stream else mishap.streamed(connection)
        rejection, told = work.rejection or refused_prompt(self.server, work), None
        if rejection is not None and (not work.stream or (told := self.refused(rejection)) is None):
            raise copy(rejection)  # its traceback holds this answer and so the work, which holds the rejection
        if work.stream:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if told is not None:
            await send({"type": "http.response.body", "body": told + DONE})
            return
        choices: list[Choice] = []

        def output(generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> Output:
            choice = self.choice(generation, seq, answer, prompt, index)
            choices.append(choice)
            return choice if mishap is None else mishap.output(choice, generation, seq)

        generation = self.server.generate(work, self._arrival_us, output)
        try:
            await connection.attend(generation)
        finally:
            if mishap is not None:
                mishap.close()
        if mishap is not None and await mishap.settled(send):
            return
        last = self.last(generation)
        if work.stream:
            await send({"type": "http.response.body", "body": last + DONE})
            return
        body = rendered_json(self.together(generation, choices))
        await send_whole(connection, send, self.raw_headers, body, mishap)


def frame(chunk: Json) -> bytes:
    """A chunk as an event."""
    return b"data: " + rendered_json(chunk) + b"\n\n"
