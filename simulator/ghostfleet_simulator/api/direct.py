"""Plain requests past ASGI: no message, no task and no coroutine, and one write for all that leaves together.

The connection (`api.protocol`) offers every request to a generation route that has arrived in one piece. What is taken
is answered byte for byte as the routes of FastAPI answer it; what is not goes to them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Final, Protocol

from ghostfleet_simulator.api.admission import is_limited
from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.instrumentation import declared_length, whereabouts
from ghostfleet_simulator.api.plain import plain_work
from ghostfleet_simulator.api.protocol import Connection
from ghostfleet_simulator.api.responses import chunks_for
from ghostfleet_simulator.api.streaming import stream_end, streamed
from ghostfleet_simulator.api.whole import collected, whole_body
from ghostfleet_simulator.config import Endpoint
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.driver import Output
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.server import SimulatedServer
from ghostfleet_simulator.runtime.work import Prompt, Work
from ghostfleet_simulator.text.answer import Answer

_PATHS: Final = {Endpoint.CHAT: "/v1/chat/completions", Endpoint.COMPLETIONS: "/v1/completions"}
_ENDPOINTS: Final = {path.encode(): endpoint for endpoint, path in _PATHS.items()}
_MOST_BYTES: Final = 8 * 1024
"""Bodies from this size on are read by a thread (`api.reading`)."""
_UNUSUAL: Final = frozenset(
    (
        *(b"origin", b"x-vllm-priority", b"x-session-id", b"x-data-parallel-rank"),
        *(b"endpoint-load-metrics-format", b"x-cache-threshold-finish-reason"),
    )
)
"""Headers that ask for more than an answer."""
_VARY: Final = b"vary: Origin\r\n"
"""What CORS middleware says of every answer."""

RawHeaders = list[tuple[bytes, bytes]]


class Client(Protocol):
    """The connection that a request came by, as uvicorn's protocol has it."""

    @property
    def default_headers(self) -> RawHeaders:
        """Headers of every answer; another list whenever they change."""

    def ended(self, exchange: Exchange) -> None:
        """Said when an answer is complete."""


class _Unheard:
    def set(self) -> None:
        """Nobody waits for a message."""


class Exchange(ABC):
    """A request that is being answered; it stands where uvicorn keeps a request's cycle, and has what it looks at."""

    __slots__ = (
        "_arrival_us",
        "_began",
        "_client",
        "_connection",
        "_direct",
        "_path",
        "_request_bytes",
        "_work",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    message_event: Final = _Unheard()

    def __init__(
        self,
        direct: Direct,
        client: Client,
        connection: Connection,
        work: Work,
        path: str,
        arrival_us: int,
        length: int,
    ) -> None:
        self._direct, self._client, self._connection, self._work = direct, client, connection, work
        self._path, self._arrival_us, self._request_bytes = path, arrival_us, length
        self._began = time.perf_counter()
        self.keep_alive = True
        """The connection outlives the answer."""
        self.disconnected = False
        """The client has gone away."""
        self.response_complete = False
        """The answer is."""

    def begin(self) -> None:
        """Have the answer made."""
        generation = self._direct.server.generate(self._work, self._arrival_us, self._output, self._end)
        if not self.response_complete:
            self._connection.on_lost = generation.abandon

    @abstractmethod
    def _output(self, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> Output:
        """Where the answer's tokens go."""

    @abstractmethod
    def _end(self) -> None:
        """Every token has come, or the client has gone."""

    def _complete(self, rest: bytes, length: int = 0) -> None:
        """Send the rest of the answer, whose body has the declared `length` if any; the exchange is over."""
        server, connection = self._direct.server, self._connection
        connection.on_lost = connection.on_writable = None
        self.response_complete = True
        if not self.disconnected:
            server.outbox.put(connection, rest)
        seconds = time.perf_counter() - self._began
        server.metrics.on_http(self._path, "POST", 200, self._request_bytes, length, seconds)
        if not self.keep_alive:
            server.outbox.flush()
            connection.transport.close()
        self._client.ended(self)


class StreamedExchange(Exchange):
    """Headers at once, a frame per token, and what is last with the last token."""

    __slots__ = ("_choice", "_generation", "_opened")

    def begin(self) -> None:
        """Begin the answer."""
        self._opened = False
        head = self._direct.head(self._client, b"content-type: text/event-stream; charset=utf-8\r\n", self.keep_alive)
        self._connection.send(head + b"transfer-encoding: chunked\r\n\r\n")
        super().begin()
        if not self.response_complete:
            self._connection.on_writable = self._choice.catch_up

    def _output(self, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> Output:
        server, work = self._direct.server, self._work
        chunks = chunks_for(work, prompt, index, int(time.time()), server.fingerprint)
        self._generation = generation
        self._choice = streamed(server, work, self._connection, generation, seq, answer, prompt, chunks, self._opening)
        return self._choice

    def _opening(self) -> bytes:
        if self._opened:
            return b""
        self._opened = True
        return self._choice.chunks.opening()

    def _end(self) -> None:
        end = stream_end(self._direct.server, self._work, self._choice.chunks, self._generation)
        del self._choice  # it knows this object, which would keep both until the next collection
        self._complete(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))


class WholeExchange(Exchange):
    """All of the answer when its last token has come."""

    __slots__ = ("_choice", "_generation")

    def _output(self, generation: Generation, seq: Sequence, answer: Answer, prompt: Prompt, index: int) -> Output:  # noqa: ARG002 - the shape of a factory of outputs
        self._generation = generation
        self._choice = collected(self._direct.server, self._work, generation, seq, answer, prompt)
        return self._choice

    def _end(self) -> None:
        direct = self._direct
        body = whole_body(direct.server, self._work, self._generation, [self._choice])
        about = b"content-length: %d\r\ncontent-type: application/json\r\n" % len(body)
        self._complete(b"%b\r\n%b" % (direct.head(self._client, about, self.keep_alive), body), len(body))


class Direct:
    """Answers plain requests to one server."""

    def __init__(self, server: SimulatedServer, facts: Facts) -> None:
        self.server = server
        self._facts = facts
        self._whereabouts = _rendered(whereabouts(server.config.listen.port, server.environ))
        self._usable = not is_limited(server) and not server.config.api.sse_keep_alive_seconds
        self._default_headers: RawHeaders = []
        self._begin = b""

    def endpoint(self, method: bytes, url: bytes) -> Endpoint | None:
        """The generation endpoint that a request is for; None for any other request."""
        return _ENDPOINTS.get(url) if method == b"POST" and self._usable else None

    def take(
        self, client: Client, connection: Connection, endpoint: Endpoint, headers: RawHeaders, body: bytes
    ) -> Exchange | None:
        """Answer a request if it is plain and nothing is to go wrong; `begin` of what is returned comes next.

        None: it is for the routes of FastAPI.
        """
        server = self.server
        arrival_us = server.now_us()
        if len(body) >= _MOST_BYTES or server.faults.armed or server.standby.refuses:
            return None
        named = dict(reversed(headers))  # of several of a name the first counts
        if not _UNUSUAL.isdisjoint(named) or named.get(b"content-type", b"").partition(b";")[0] != b"application/json":
            return None
        request_id = named.get(b"x-request-id")
        work = plain_work(endpoint, body, None if request_id is None else request_id.decode("latin-1"), self._facts)
        if work is None:
            return None
        kind = StreamedExchange if work.stream else WholeExchange
        return kind(self, client, connection, work, _PATHS[endpoint], arrival_us, declared_length(headers))

    def head(self, client: Client, about: bytes, keep_alive: bool) -> bytes:
        """Status line and headers; `about` are those of this answer."""
        headers = client.default_headers
        if headers is not self._default_headers:
            self._default_headers, self._begin = headers, b"HTTP/1.1 200 OK\r\n" + _rendered(headers)
        revision = self.server.in_force.revision
        close = b"" if keep_alive else b"connection: close\r\n"
        return b"%b%bx-ghostfleet-revision: %d\r\n%b%b%b" % (
            self._begin,
            about,
            revision,
            self._whereabouts,
            _VARY,
            close,
        )


def _rendered(headers: RawHeaders) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
