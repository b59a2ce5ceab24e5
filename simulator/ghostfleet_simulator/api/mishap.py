"""What goes wrong with one answer made of tokens, at which of them, and what is sent instead.

The engine knows nothing of it: it goes on, as vLLM's does when its API process does not deliver. What was held back is
delivered as one delta, as vLLM's output collector merges what was not fetched in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Send

from ghostfleet_simulator.api.injected import RawHeaders, cut_short
from ghostfleet_simulator.api.protocol import Connection
from ghostfleet_simulator.config import Ending, Failure, FailureType
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.runtime.driver import Output
from ghostfleet_simulator.runtime.generation import Generation
from ghostfleet_simulator.runtime.held import Held, Hold
from ghostfleet_simulator.runtime.outbox import Outbox


class Mishap:
    """One failure of one answer. It happens when the answer's tokens have come, `failure.tokens` of all its choices."""

    def __init__(
        self,
        failure: Failure,
        held: Held,
        connection: Connection,
        outbox: Outbox,
        crash: Callable[[Failure], None],
    ) -> None:
        """`crash` is what a crash does."""
        self._failure = failure
        self._crash = crash
        self._held = held
        self._connection = connection
        self._outbox = outbox
        self._left = failure.tokens
        self._outputs: list[_Afflicted] = []
        self._hold: Hold | None = None
        self._happened = False
        self._silent = False
        self._cutter: _CuttingTransport | None = None
        self._generation: Generation | None = None
        self._cut_as: Ending | None = None

    @property
    def truncates(self) -> Ending | None:
        """How the answer ends where half of it is sent, None where the failure is another one."""
        return (self._failure.ending or Ending.CLEAN) if self._failure.type is FailureType.TRUNCATE else None

    @property
    def holding(self) -> bool:
        """Whether nothing may be sent at present."""
        return self._silent

    def streamed(self, connection: Connection) -> Connection:
        """The connection as the choices of a stream are to see it: a frame can be cut on its way."""
        if self.truncates is None:
            return connection
        self._cutter = _CuttingTransport(connection, self.truncates, self._cut)
        return Connection(self._cutter, connection.flow)

    def output(self, inner: Output, generation: Generation, seq: Sequence) -> Output:
        """The output of one sequence, which lets tokens through to `inner` while all is well."""
        self._generation = generation
        if self._hold is None:
            self._hold = self._held.add(self._failure, self._over)
        if self.truncates is not None and self._cutter is None:
            return inner  # an answer in one piece is cut when it is there
        output = _Afflicted(self, inner, seq)
        self._outputs.append(output)
        return output

    def close(self) -> None:
        """The answer has ended, or its client is gone."""
        if self._hold is not None:
            self._held.drop(self._hold)

    async def settled(self, send: Send) -> bool:
        """Whether nothing more is to be sent, because a frame was cut; if so, the response has been ended."""
        if self._cut_as is None:
            return False
        if self._cut_as is Ending.CLEAN:
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._connection.gone()
        return True

    def passes(self, *, last: bool) -> bool:
        """Whether a token that is there goes through; the last of the whole answer does not before it has happened."""
        if not self._happened:
            if self._left > 0 and not last:
                self._left -= 1
                return True
            self._happened = True
            self._happen()
        return not self._silent

    def is_last(self) -> bool:
        """Whether no choice but the one that asks is without its last token."""
        return sum(not output.finished for output in self._outputs) <= 1

    def _happen(self) -> None:
        self._outbox.flush()
        match self._failure.type:
            case FailureType.HANG | FailureType.STALL if self._hold is not None:
                self._silent = True
                self._held.begin(self._hold)
            case FailureType.RESET:
                self._silent = True
                self._connection.end(reset=True)
            case FailureType.TRUNCATE if self._cutter is not None:
                self._cutter.armed = True
            case FailureType.CRASH:
                self._silent = True
                self._crash(self._failure)

    def _over(self) -> None:
        """It does not happen any more, and what it held back goes out."""
        self._happened, self._silent = True, False
        for output in self._outputs:
            output.deliver()

    def _cut(self) -> None:
        """Half a frame is out; nothing follows."""
        self._cut_as = self.truncates
        if self._generation is not None:
            # Not at once: it may be in the midst of handing out the tokens of a step.
            asyncio.get_running_loop().call_soon(self._generation.abandon)


async def send_whole(
    connection: Connection, send: Send, headers: RawHeaders, body: bytes, mishap: Mishap | None
) -> None:
    """Send an answer in one piece; the first half of it where its mishap is to be cut."""
    if mishap is not None and mishap.truncates is not None:
        await cut_short(connection, send, 200, headers, body, mishap.truncates)
        return
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


class _Afflicted:
    """Output of a sequence whose answer suffers a mishap."""

    __slots__ = ("_inner", "_mishap", "_seq", "_waiting", "finished")

    def __init__(self, mishap: Mishap, inner: Output, seq: Sequence) -> None:
        self._mishap = mishap
        self._inner = inner
        self._seq = seq
        self._waiting = False
        self.finished = False

    def token(self) -> None:
        """Pass a token on, unless it is held back; the inner output sends it with a later one."""
        if self._mishap.passes(last=False):
            self._inner.token()

    def finish(self) -> None:
        """Pass the end on, or keep it until the answer goes on."""
        last = self._mishap.is_last()
        self.finished = True
        if self._mishap.passes(last=last):
            self._inner.finish()
        else:
            self._waiting = True

    def deliver(self) -> None:
        """Send what was held back."""
        if self._waiting:
            self._waiting = False
            self._inner.finish()
        elif self._seq.produced and not self.finished:
            self._inner.token()


class _CuttingTransport(asyncio.Transport):
    """A transport on which, once armed, the next frame goes out by half and then nothing."""

    def __init__(self, connection: Connection, ending: Ending, done: Callable[[], None]) -> None:
        super().__init__()
        self._connection = connection
        self._ending = ending
        self._done = done
        self._over = False
        self.armed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write one HTTP chunk that holds one or more frames."""
        if self._over:
            return
        if not self.armed:
            self._connection.transport.write(data)
            return
        self._over = True
        size, _, rest = bytes(data).partition(b"\r\n")
        half = rest[: rest.index(b"\n\n") // 2]
        if self._ending is Ending.CLEAN:
            self._connection.transport.write(b"%x\r\n%b\r\n" % (len(half), half))
        else:
            self._connection.transport.write(size + b"\r\n" + half)
            self._connection.end(reset=self._ending is Ending.RESET)
        self._done()
