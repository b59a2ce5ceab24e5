"""Streams of a well-behaved client, timed in a process of their own.

`python -m tests.adverse.probe PORT STREAMS SECONDS ITL_MS` prints one JSON object. A token is late by what passed since
it was due: `ITL_MS` after the one before it was due, counted from the token of its stream that came soonest. The probe
times its own wake-ups in the same way, so that what the machine held up can be told from what the server did.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from typing import Final

_BODY: Final = json.dumps(
    {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "ignore_eos": True,
        "max_tokens": 3_000,
    }
).encode()
_OWN_PERIOD_S: Final = 0.005


class _Stream(asyncio.Protocol):
    """One stream: when each of its frames came."""

    def __init__(self, times: list[float]) -> None:
        self._times = times

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        transport.write(f"{head}Content-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._times.extend([now] * data.count(b"data: "))


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of them lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def _own_lateness(end: float) -> list[float]:
    loop, found = asyncio.get_running_loop(), []
    due = time.monotonic()
    while due < end:
        due += _OWN_PERIOD_S
        future = loop.create_future()
        loop.call_at(due, future.set_result, None)
        await future
        found.append(time.monotonic() - due)
    return found


async def _probe(port: int, streams: int, seconds: float, itl: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    times: list[list[float]] = [[] for _ in range(streams)]
    connections = [await loop.create_connection(lambda t=t: _Stream(t), "127.0.0.1", port) for t in times]
    own = await _own_lateness(time.monotonic() + seconds)
    late: list[float] = []
    errors: list[float] = []
    for arrived in times:
        tokens = arrived[2:]  # the role comes with the first token
        schedule = [at - number * itl for number, at in enumerate(tokens)]
        late += [at - min(schedule) for at in schedule]
        errors += [abs(later - earlier - itl) for earlier, later in itertools.pairwise(tokens)]
    for transport, _ in connections:
        transport.close()
    return {
        "tokens": float(len(late)),
        "least_tokens": float(min(map(len, times))),
        "gap_error_p99_ms": 1e3 * quantile(errors, 0.99),
        "late_p99_ms": 1e3 * quantile(late, 0.99),
        "late_p999_ms": 1e3 * quantile(late, 0.999),
        "late_max_ms": 1e3 * max(late),
        "own_late_p99_ms": 1e3 * quantile(own, 0.99),
        "own_late_max_ms": 1e3 * max(own),
    }


if __name__ == "__main__":
    port_, streams_, seconds_, itl_ms = sys.argv[1:]
    result = asyncio.run(_probe(int(port_), int(streams_), float(seconds_), float(itl_ms) / 1e3))
    sys.stdout.write(json.dumps(result))
