"""Ways in which a watch can be wrong; each turns the lines that the API server sends into those that arrive."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable

from tests.apiserver.faults.proxy import Call, Lines, Stream

GONE = {
    "type": "ERROR",
    "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410},
}
LATE_SECONDS = 2.0


async def lossy(_call: Call, lines: Lines) -> Lines:
    """Every second event is lost."""
    lost = itertools.cycle((False, True))
    async for line in lines:
        if not next(lost):
            yield line


async def silent(_call: Call, lines: Lines) -> Lines:
    """The connection stays, and nothing comes, no bookmark either."""
    async for _ in lines:
        pass
    yield b""  # never reached while the API server keeps the watch


async def gaps(_call: Call, lines: Lines) -> Lines:
    """Deletions are lost, and after each the watch has expired and has to begin anew from a list (410 Gone)."""
    async for line in lines:
        if json.loads(line)["type"] == "DELETED":
            yield json.dumps(GONE).encode() + b"\n"
            return
        yield line


async def late(_call: Call, lines: Lines) -> Lines:
    """Events come two seconds late."""
    async for line in _rearranged(lines, lambda _: [LATE_SECONDS]):
        yield line


async def twice(_call: Call, lines: Lines) -> Lines:
    """Every event comes once more, a second later, when others have come in between."""
    async for line in _rearranged(lines, lambda _: [0.0, 1.0]):
        yield line


async def out_of_order(_call: Call, lines: Lines) -> Lines:
    """Every second event is overtaken by those of the next half second."""
    async for line in _rearranged(lines, lambda number: [0.5 * (number % 2)]):
        yield line


WAYS: dict[str, Stream] = {way.__name__: way for way in (lossy, silent, gaps, late, twice, out_of_order)}


async def _rearranged(lines: Lines, delays: Callable[[int], list[float]]) -> AsyncIterator[bytes]:
    """Each line as often, and as many seconds later, as `delays` of its number says."""
    loop, out = asyncio.get_running_loop(), asyncio.Queue[bytes | None]()

    async def pump() -> None:
        number = 0
        async for line in lines:
            number += 1
            for delay in delays(number):
                loop.call_later(delay, out.put_nowait, line)
        loop.call_later(LATE_SECONDS, out.put_nowait, None)

    pumping = asyncio.create_task(pump())
    try:
        while (line := await out.get()) is not None:
            yield line
    finally:
        pumping.cancel()
