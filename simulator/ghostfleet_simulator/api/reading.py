"""Where bodies are decoded, checked and tokenized, so that no stream waits for it.

Small bodies are read where they arrive, others by a thread. Large ones, and those of very many values, would hold the
interpreter's lock for up to seconds and leave hundreds of megabytes behind: a process of its own reads them, which is
started for the first of them and ends when there was none for a while.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ghostfleet_simulator.api.facts import Facts
from ghostfleet_simulator.api.reading_process import Question, main
from ghostfleet_simulator.config import ModelSettings

T = TypeVar("T")
Job = Callable[[Facts, bytes, Mapping[str, str]], T]
"""A function of `api.judging`, which both processes can name."""

_THREAD_BYTES: Final = 8 * 1024
"""Bodies from this size on take 1 ms or more."""
_PROCESS_BYTES: Final = 256 * 1024
"""Bodies from this size on take tens of megabytes to tokenize."""
_PROCESS_VALUES: Final = 16_000
_PROCESS_OBJECTS: Final = 2_000
"""Bodies of more values, or objects, than these can take 10 ms to check, during which no other thread runs."""

_log = logging.getLogger("ghostfleet.api")


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request by their lower-case names; of several of a name the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def _for_a_process(body: bytes) -> bool:
    return len(body) >= _PROCESS_BYTES or body.count(b",") > _PROCESS_VALUES or body.count(b"{") > _PROCESS_OBJECTS


class BodyReader:
    """Does jobs on bodies, each in the place that its size and content ask for."""

    def __init__(self, model: ModelSettings, facts: Facts, idle_s: float = 10) -> None:
        """The process ends when it had nothing to do for `idle_s` seconds."""
        self._facts = facts
        self._threads = ThreadPoolExecutor(2, "bodies")
        self._apart = _Apart(model, idle_s)

    async def read(self, job: Job[T], body: bytes, headers: Mapping[str, str]) -> T:
        """What `job` makes of a body; raises what it raises."""
        if len(body) < _THREAD_BYTES:
            return job(self._facts, body, headers)
        if _for_a_process(body):
            return await self._apart.read(job, self._facts, body, headers)
        return await asyncio.get_running_loop().run_in_executor(self._threads, job, self._facts, body, headers)

    async def answer(self, job: Job[bytes], request: Request) -> Response:
        """The answer whose body `job` makes of that of a request."""
        body = await request.body()
        return Response(await self.read(job, body, headers_of(request.scope)), media_type="application/json")

    def close(self) -> None:
        """End what was started."""
        self._threads.shutdown(wait=False)
        self._apart.close()


class _Apart:
    """The process for large bodies (`api.reading_process`); it does one job at a time.

    It ends with its standard input, and so with this process however that ends.
    """

    def __init__(self, model: ModelSettings, idle_s: float) -> None:
        self._model = model
        self._idle_s = idle_s
        self._thread = ThreadPoolExecutor(1, "large-bodies")
        self._process: subprocess.Popen[bytes] | None = None
        self._used = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def read(self, job: Job[T], facts: Facts, body: bytes, headers: Mapping[str, str]) -> T:
        loop = asyncio.get_running_loop()
        done, result = await loop.run_in_executor(self._thread, self._ask, job, facts, body, headers)
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = loop.call_later(self._idle_s, self._thread.submit, self._end_if_idle)
        if not done:
            try:
                raise result
            finally:  # it holds this frame and so the body, and this frame would hold it
                del result
        answer: T = result
        return answer

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if (process := self._process) is not None:
            process.kill()  # a job that is under way fails, which lets its thread end
        self._thread.submit(self._end)
        self._thread.shutdown(wait=False)

    # --- in the thread -----------------------------------------------------------------------------

    def _ask(self, job: Job[T], facts: Facts, body: bytes, headers: Mapping[str, str]) -> tuple[bool, Any]:
        """Whether the job came to its end, and what it returned or raised."""
        try:
            process = self._process or self._start()
            assert process.stdin is not None  # noqa: S101 - for the type checker
            assert process.stdout is not None  # noqa: S101 - likewise
            Question(process.stdin, pickle.HIGHEST_PROTOCOL).dump((job, facts, body, headers))
            process.stdin.flush()
            done, result = pickle.load(process.stdout)  # noqa: S301 - it was made by our own process
        except (OSError, EOFError, pickle.PickleError):
            self._end()
            return False, RuntimeError("the process that reads large bodies has ended")
        self._used = time.monotonic()
        return done, result

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own, so that a terminal's Ctrl-C does not reach it; no module is looked for where we stand.
        command = [sys.executable, "-P", "-c", f"from {main.__module__} import main; main()"]
        self._process = process = subprocess.Popen(  # noqa: S603 - a command without anything from outside
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None  # noqa: S101 - for the type checker
        pickle.dump(self._model, process.stdin)
        _log.debug("process %d reads large bodies", process.pid)
        return process

    def _end_if_idle(self) -> None:
        if time.monotonic() - self._used >= self._idle_s:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was still to be written
                if pipe is not None:
                    pipe.close()
        process.wait()
