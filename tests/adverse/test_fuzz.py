"""Bodies that nobody means: an answer for every one, in time and in vLLM's shape, and the server is as it was.

`make test` runs a sample, `make soak` 100,000 cases with a seed of their own; both print how many there were.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import Figures, Serve, Served
from .fuzz import Tally, cases, fuzz, judged

pytestmark = pytest.mark.soak
SOAK = os.environ.get("GHOSTFLEET_SOAK") == "1"
RAW_CASES = 100_000 if SOAK else 500
WARM_UP = 3_000 if SOAK else 100
SCHEMA_EXAMPLES = 500 if SOAK else 10
SCHEMA_SECONDS = 900 if SOAK else 30
GROWTH_BYTES = 96 << 20
"""What a process may have more than after its warm-up: it keeps some of the memory that its largest bodies took."""


@pytest.fixture(scope="module")
def fuzzed(serve: Serve) -> Served:
    """A server without latency, whose context is small enough for an answer of any length."""
    return serve(
        *("--time-to-first-token", "0", "--inter-token-latency", "0", "--max-model-len", "2048"),
        *("--num-gpu-blocks-override", "4096"),
    )


def answers_as_ever(served: Served) -> None:
    """A plain request is served, and nothing is left over from others."""
    served.until(running=0, waiting=0, kvUsage=0.0)
    request = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "ignore_eos": True}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=request)
    assert answer.json()["usage"]["completion_tokens"] == 5
    assert served.process.poll() is None
    assert "Traceback" not in served.log.read_text()


def told(tally: Tally, seed: int) -> str:
    """The first few wrong answers, with what brought them."""
    found = [
        f"{what}\n  for {case.path} {case.content_type} {case.headers} {case.body[:1000]!r}"
        for case, what in tally.wrong
    ]
    return f"seed {seed}, {len(found)} wrong:\n" + "\n".join(found[:5])


def test_no_body_breaks_the_server(fuzzed: Served, figures: Figures) -> None:
    """Mutated bodies of every POST route: no 500, no hang, no broken stream, no growth."""
    seed = random.SystemRandom().randrange(2**32) if SOAK else 4
    source = cases(random.Random(seed))
    asyncio.run(fuzz(fuzzed.port, source, WARM_UP))
    before = fuzzed.resident_bytes()
    tally = asyncio.run(fuzz(fuzzed.port, source, RAW_CASES))
    grown = fuzzed.resident_bytes() - before  # what reads large bodies ends by itself (test_loads)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(tally.statuses.items()))
    figures(f"fuzz: {tally.count} cases, seed {seed}: {statuses}; {grown / 2**20:+.0f} MiB")
    assert not tally.wrong, told(tally, seed)
    assert tally.count == RAW_CASES
    assert tally.statuses[200] > RAW_CASES / 20
    assert tally.statuses[400] > RAW_CASES / 5
    assert grown < GROWTH_BYTES
    answers_as_ever(fuzzed)


def test_the_fuzzer_notices_what_is_wrong() -> None:
    """A 500, a stream without end and an error of another shape are found; a body and an error of vLLM's pass."""
    assert judged(500, b"{}")
    assert judged(200, b'data: {"choices":[]}\n\n')
    assert judged(200, b'data: {"error":{"code":500}}\n\ndata: [DONE]\n\n')
    assert judged(400, b'{"error": "no"}')
    assert judged(400, b"Invalid")
    assert judged(200, b'data: {"choices":[]}\n\ndata: [DONE]\n\n') is None
    assert judged(400, b'{"error": {"message": "no", "type": "BadRequestError", "param": null, "code": 400}}') is None


def test_the_same_seed_gives_the_same_cases() -> None:
    """So that what a seed has found can be found again."""
    first, second = (cases(random.Random(7)) for _ in range(2))
    assert [next(first) for _ in range(50)] == [next(second) for _ in range(50)]


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
        b"\r\n" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_bytes_that_are_no_http_end_their_connection_only(fuzzed: Served, raw: bytes) -> None:
    """They are answered with an error of HTTP or hung up on; the next client is served."""

    async def send() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", fuzzed.port)
        writer.write(raw)
        writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 15)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    answer = asyncio.run(send())
    assert not answer or re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:200]
    answers_as_ever(fuzzed)


def test_schemathesis_finds_no_server_error(fuzzed: Served, tmp_path: Path, figures: Figures) -> None:
    """The tool reads our OpenAPI document and makes requests of it, valid and invalid ones."""
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{fuzzed.url}/openapi.json"),
        *(
            "--checks",
            "not_a_server_error",
            "--max-examples",
            str(SCHEMA_EXAMPLES),
            "--max-time",
            str(SCHEMA_SECONDS),
            "--phases",
            "examples,coverage,fuzzing",
        ),
        *("--mode", "all", "--request-timeout", "20", "--workers", "1", "--report", "ndjson", "--report-dir", tmp_path),
        *("--suppress-health-check", "all", "--no-color", "--exclude-path", "/metrics"),
        *([] if SOAK else ["--seed", "1"]),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=3600)
    figures("schemathesis: " + "; ".join(line.strip() for line in ended.stdout.splitlines() if "generated" in line))
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert re.search(r"\d+ generated", ended.stdout), ended.stdout[-2000:]
    answers_as_ever(fuzzed)
