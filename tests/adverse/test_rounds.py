"""One server under round after round of the same load takes no more memory in the tenth than in the third."""

from __future__ import annotations

import asyncio
import os

import pytest

from .conftest import Figures, Serve
from .loads import chat

SOAK = os.environ.get("GHOSTFLEET_SOAK") == "1"
pytestmark = pytest.mark.soak
ROUNDS, WARM = 10, 3
STREAMS, REQUESTS = (512, 2) if SOAK else (64, 2)
TOKENS = 100
MOST_GROWTH_BYTES = 6 << 20
"""What some thousand ended connections hold until the garbage collector looks: their transports know themselves."""


async def client(port: int, tokens: int) -> None:
    """Some requests on one connection, each different from all others, half of them in one piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(REQUESTS):
        stream = number % 2 == 0
        writer.write(chat(max_tokens=tokens, stream=stream, user=os.urandom(8).hex()))
        end = b"0\r\n\r\n" if stream else b"}"
        answer = b""
        while not answer.endswith(end) or (not stream and answer.count(b'"metrics":null}') != 1):
            data = await reader.read(65536)
            assert data, answer
            answer += data
    writer.close()


async def round_of(port: int) -> None:
    await asyncio.gather(*(client(port, TOKENS) for _ in range(STREAMS)))


def test_memory_is_flat_over_ten_rounds(serve: Serve, figures: Figures) -> None:
    # So few blocks that all of them have been used once after two rounds: what they hold is remembered in any case.
    served = serve(
        *("--time-to-first-token", "0ms", "--inter-token-latency", "1ms", "--max-num-seqs", "1024"),
        *("--max-model-len", "1024", "--num-gpu-blocks-override", str(16 * STREAMS)),
    )
    sizes = []
    for _ in range(ROUNDS):
        asyncio.run(round_of(served.port))
        served.until(running=0, waiting=0)
        sizes.append(served.resident_bytes())
    figures(f"{STREAMS} streams, MiB at the end of each round: " + " ".join(f"{size / 2**20:.1f}" for size in sizes))
    assert max(sizes[WARM:]) - sizes[WARM - 1] < MOST_GROWTH_BYTES, sizes
