"""The hot path: tokens to the client, one format and one write each.

A token comes here straight from the driver, in the wake-up it shares with every other token due then. The parts of its
frame that do not change were encoded when the request began; its text was encoded when the vocabulary was. Where the
reader is slower than the tokens, its deltas are merged, as vLLM's output collector does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ghostfleet_simulator.api.admission import refused_prompt
from ghostfleet_simulator.api.errors import ApiError, internal_error
from ghostfleet_simulator.api.injected import RawHeaders
from ghostfleet_simulator.api.keep_alive import KeepAlive
from ghostfleet_simulator.api.mishap import Mishap
from ghostfleet_simulator.api.protocol import Connection, connection_of
from ghostfleet_simulator.api.responses import DONE, NOTHING, Chunks, Told, chunks_for, escaped
from ghostfleet_simulator.api.telling import Teller, teller_for, times_of, transfer_of, usage_of
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.driver import Output
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.outbox import Outbox
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Kind, Prompt, Work
from ghostfleet_simulator.text.answer import Answer
from ghostfleet_simulator.text.detokenize import Detokenizer


class _Sizes(dict[int, bytes]):
    """What stands before a chunk of so many bytes."""

    def __missing__(self, size: int) -> bytes:
        line = self[size] = b"%x\r\n" % size
        return line


_SIZES: Final = _Sizes()
_AHEAD: Final = 8
"""Frames made at a time: what they are made of then comes from memory once for all of them."""
_CONTENT_TYPE: Final = (b"content-type", b"text/event-stream; charset=utf-8")


class _Paced:
    """What every token reads or writes of its output; see `engine.sequence`."""

    __slots__ = ("_frames", "_keep_data", "_keep_line", "_line", "_merges", "_outbox", "_sent", "_seq")


class StreamedChoice(_Paced):
    """The output of one choice of a streaming response."""

    __slots__ = (
        "_answer",
        "_detokenizer",
        "_fragments",
        "_generation",
        "_head",
        "_interval",
        "_opening",
        "_overhead",
        "_plain",
        "_put",
        "_tail",
        "_teller",
        "_transfer",
        "chunks",
    )

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        generation: Generation,
        seq: Sequence,
        answer: Answer,
        chunks: Chunks,
        opening: Callable[[], bytes],
        detokenizer: Detokenizer | None,
        teller: Teller | None,
        transfer: Callable[[Sequence], bytes],
        *,
        interval: int,
        plain: bool,
        merges: bool,
    ) -> None:
        """`opening` gives what precedes the first chunk of the whole stream, once; `detokenizer` is there where stop
        strings are to be found, `teller` where more than text is told. With `plain` there is a chunk per token, and
        they differ in nothing but their text; else a chunk has `interval` tokens at least. A choice that `merges` waits
        for the tokens that come at the same moment; nothing stands between it and the driver.
        """
        self._transfer = transfer
        self._teller = teller
        self._interval = interval
        self._generation = generation
        self._seq = seq
        self._answer, self._fragments = answer, answer.fragments
        self._line, self._outbox, self._put = connection, outbox, outbox.put
        self._keep_line, self._keep_data = outbox.keep_line, outbox.keep_data
        self._merges = merges
        self.chunks = chunks
        """The frames of the choice."""
        self._opening = opening
        self._detokenizer = detokenizer
        self._plain = plain and merges
        self._head, self._tail = chunks.head, chunks.tail + b"\r\n"
        self._overhead = len(chunks.head) + len(chunks.tail)
        self._sent = 0
        self._frames: list[bytes] = []
        """Those of the tokens behind the first `_sent`, as far as they were made; the next one is the last."""

    def token(self) -> None:
        """Send the token that came, and those held back before it."""
        line = self._line
        # The descriptor first: it says the same without another look into memory that no token has seen for a while.
        if (line.descriptor < 0 and line.flow.write_paused) or (self._merges and self._outbox.more):
            return
        if self._seq.produced == self._sent + 1 and (self._frames or self._look_ahead()):
            self._sent += 1
            self._keep_line(line)
            self._keep_data(self._frames.pop())
        else:
            self.catch_up()

    def _look_ahead(self) -> bool:
        """Make some frames; whether there are any, and not each delta has to be looked at."""
        sent = self._sent
        if not sent or not self._plain:
            return False
        end = min(sent + _AHEAD, self._answer.length)
        self._answer.fragment(end - 1)
        overhead, head, tail = self._overhead, self._head, self._tail
        self._frames = [
            b"".join((_SIZES[overhead + len(fragment)], head, fragment, tail))
            for fragment in self._fragments[end - 1 : sent - 1 : -1]
        ]
        return True

    def catch_up(self) -> None:
        """Send all that has been produced since the last chunk, as one chunk."""
        seq, sent = self._seq, self._sent
        new = seq.produced - sent
        if new == 0 or seq.finish_reason is not None or (sent and new < self._interval):
            return
        fragment = self._new_text(finished=False)
        if (stop_string := self._stop_string) is not None:
            self._generation.stop(seq, stop_string)
            self._end(fragment, sent)
        else:
            self._frame(self.chunks.token(fragment, seq.produced, self._told(sent)))

    def finish(self) -> None:
        """Send the chunk that ends the choice; it carries the text of the last token."""
        sent = self._sent
        fragment = self._new_text(finished=True)
        if (stop_string := self._stop_string) is not None:
            self._seq.finish_reason, self._seq.stop_reason = "stop", stop_string
        self._end(fragment, sent)

    def _end(self, fragment: bytes, sent: int) -> None:
        seq = self._seq
        reason, told = seq.finish_reason or "stop", self._told(sent)
        if reason != "error":  # what failed is told in a frame of its own, behind all answers
            transfer = self._transfer(seq)
            self._frame(self.chunks.finish(fragment, reason, seq.stop_reason, seq.produced, told, transfer))
        self._generation.ended(seq)

    def _told(self, start: int) -> Told:
        """What comes with the tokens from `start` on."""
        if self._teller is None:
            return NOTHING
        return self._teller.told(self._answer.token_ids(start, self._seq.produced))

    @property
    def _stop_string(self) -> str | None:
        return self._detokenizer.stop_string if self._detokenizer else None

    def _new_text(self, *, finished: bool) -> bytes:
        """The text not sent so far, as the inside of a JSON string."""
        start, self._sent = self._sent, self._seq.produced
        self._frames.clear()
        if self._detokenizer is None:
            text = self._answer.text(start, self._sent)
        else:
            ids = self._answer.token_ids(start, self._sent)
            by_token = finished and self._seq.finish_reason == "stop"
            text = escaped(self._detokenizer.feed(ids, finished=finished, stop_token=by_token))
        return text if start else self.chunks.prefix + text

    def _frame(self, body: bytes) -> None:
        body = self._opening() + body
        self._put(self._line, b"%x\r\n%b\r\n" % (len(body), body))


def streamed(
    server: SimulatedServer,
    work: Work,
    line: Connection,
    generation: Generation,
    seq: Sequence,
    answer: Answer,
    prompt: Prompt,
    chunks: Chunks,
    opening: Callable[[], bytes],
    *,
    merges: bool = True,
) -> StreamedChoice:
    """The output of one choice of `work`; `opening` and `merges` as `StreamedChoice` has them."""
    stops = None if prompt.sampling.plain else server.detokenizer(prompt.sampling)
    return StreamedChoice(
        line,
        server.outbox,
        generation,
        seq,
        answer,
        chunks,
        opening,
        stops,
        teller_for(work, prompt, server),
        partial(transfer_of, server=server),
        interval=work.details.interval,
        plain=stops is None and work.details.plain and not work.continuous_usage,
        merges=merges and stops is None,
    )


def _error_frame(work: Work, error: Exception) -> bytes:
    if not isinstance(error, ApiError):
        raise error
    return error.chat_frame() if work.kind is Kind.CHAT else error.completion_frame()


def stream_end(server: SimulatedServer, work: Work, chunks: Chunks, generation: Generation) -> bytes:
    """What comes behind the last choice; any choice's `chunks` can write it."""
    if any(seq.finish_reason == "error" for seq in generation.sequences):
        return _error_frame(work, internal_error()) + DONE
    if not work.include_usage:
        return DONE
    return chunks.usage(usage_of(work, generation, server), times_of(generation, server)) + DONE


class EventStream(Response):
    """The streaming response to one request: headers at once, then a frame per token, `[DONE]` at the end."""

    media_type = "text/event-stream"

    def __init__(
        self,
        server: SimulatedServer,
        work: Work,
        arrival_us: int,
        headers: RawHeaders = (),
        mishap: Mishap | None = None,
    ) -> None:
        # Not by way of `super`: it would make headers of a body, and there is none.
        self.status_code, self.background = 200, None
        self.raw_headers = [_CONTENT_TYPE, *headers]
        self._mishap = mishap
        self._server, self._work, self._arrival_us = server, work, arrival_us

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the shape of an ASGI application
        """Send the response; a client that goes away has its sequences aborted at once."""
        connection = connection_of(scope)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        rejection = self._work.rejection or refused_prompt(self._server, self._work)
        if rejection is not None:
            await send({"type": "http.response.body", "body": _error_frame(self._work, rejection) + DONE})
            return
        mishap = self._mishap
        line = connection if mishap is None else mishap.streamed(connection)
        choices: list[StreamedChoice] = []
        created = int(time.time())

        def output(generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> Output:
            chunks = chunks_for(self._work, prompt, index, created, self._server.fingerprint)
            choice = streamed(
                self._server,
                self._work,
                line,
                generation,
                seq,
                answer,
                prompt,
                chunks,
                opening,
                merges=mishap is None,
            )
            choices.append(choice)
            return choice if mishap is None else mishap.output(choice, generation, seq)

        opened = False

        def opening() -> bytes:
            # vLLM opens all choices when the first token of any of them is there (chat_completion/serving.py).
            nonlocal opened
            if opened:
                return b""
            opened = True
            return b"".join(choice.chunks.opening() for choice in choices)

        def catch_up() -> None:
            if mishap is not None and mishap.holding:
                return
            for choice in choices:
                choice.catch_up()

        generation = self._server.generate(self._work, self._arrival_us, output)
        keep_alive = self._keep_alive(line, generation)
        try:
            await connection.attend(generation, catch_up)
        finally:
            if keep_alive is not None:
                keep_alive.stop()
            if mishap is not None:
                mishap.close()
        if mishap is not None and await mishap.settled(send):
            return
        await send(
            {"type": "http.response.body", "body": stream_end(self._server, self._work, choices[0].chunks, generation)}
        )

    def _keep_alive(self, line: Connection, generation: Generation) -> KeepAlive | None:
        seconds, mishap = self._server.config.api.sse_keep_alive_seconds, self._mishap
        if not seconds:
            return None

        def progress() -> int | None:
            if line.flow.write_paused or (mishap is not None and mishap.holding):
                return None
            return sum(seq.produced for seq in generation.sequences)

        return KeepAlive(seconds, line.send, progress)
