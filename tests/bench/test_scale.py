"""The scraper of many servers, and the bench that starts them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bench.client import BenchError, cache_folder, compiled
from bench.scale import SCRAPER, late, scrape

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na 123\n"


@pytest.fixture(scope="module")
def scraper() -> Path:
    try:
        return compiled(cache_folder(), source=SCRAPER)
    except BenchError as error:
        pytest.skip(str(error))


class Toy(threading.Thread):
    """A server on a connection that is kept: each request gets the answer after a time, in two pieces."""

    def __init__(self, answer: bytes, seconds: float) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answer, self._seconds = answer, seconds
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.connections = 0
        self.start()

    def run(self) -> None:
        connection, _ = self._listener.accept()
        self.connections += 1
        with connection:
            while data := connection.recv(4096):
                self.requests.append(data)
                time.sleep(self._seconds)
                connection.sendall(self._answer[:30])
                connection.sendall(self._answer[30:])

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def toys() -> Iterator[Callable[..., Toy]]:
    with ExitStack() as stack:

        def make(answer: bytes = ANSWER, seconds: float = 0.0) -> Toy:
            toy = Toy(answer, seconds)
            stack.callback(toy.close)
            return toy

        yield make


def test_each_server_is_asked_at_its_rate_over_one_connection(scraper: Path, toys: Callable[..., Toy]) -> None:
    """As an endpoint picker asks: a plain GET."""
    servers = [toys() for _ in range(3)]
    found = scrape(scraper, [toy.url for toy in servers], per_s=20, seconds=2, warm_up=0.5)
    assert found.servers == 3
    assert found.scrapes + found.skipped == pytest.approx(120, abs=3)
    for toy in servers:
        assert toy.connections == 1
        assert toy.requests[0] == f"GET /metrics HTTP/1.1\r\nHost: {toy.url.partition('//')[2]}\r\n\r\n".encode()
        assert 20 < len(toy.requests) <= 51
    assert found.bytes == pytest.approx(len(ANSWER) * found.scrapes, rel=0.05)


def test_the_time_of_an_answer_is_measured_and_ticks_in_it_are_skipped(scraper: Path, toys: Callable[..., Toy]) -> None:
    """A server that takes 120 ms misses two of three ticks that come every 50 ms."""
    slow = toys(seconds=0.12)
    found = scrape(scraper, [slow.url], per_s=20, seconds=3, warm_up=0.2)
    assert found.p50_us >= 120_000
    assert found.skipped >= found.scrapes
    assert 55 <= found.scrapes + found.skipped <= 62


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ANSWER.replace(b"200 OK", b"500 No"), "not 200"),
        (ANSWER.replace(b"Length: 6", b"Length: 3"), "longer than it says"),
        (ANSWER.replace(b"Content-Length", b"X"), "not 200 with a length"),
    ],
)
def test_anything_but_a_whole_answer_ends_the_bench(
    answer: bytes, words: str, scraper: Path, toys: Callable[..., Toy]
) -> None:
    with pytest.raises(BenchError, match=words):
        scrape(scraper, [toys().url, toys(answer).url], per_s=10, seconds=0.5, warm_up=0)


def test_a_server_that_is_not_there_is_named(scraper: Path) -> None:
    with pytest.raises(BenchError, match=r"1 of 1 servers could not be scraped: 127\.0\.0\.1:1: Connection refused"):
        scrape(scraper, ["http://127.0.0.1:1"], per_s=10, seconds=0.5, warm_up=0)


def test_late_is_what_takes_longer_than_a_pickers_interval_or_is_not_sent() -> None:
    assert late({"p99_ms": 50.1, "skipped_per_s": 0})
    assert late({"p99_ms": 3.0, "skipped_per_s": 0.5})
    assert not late({"p99_ms": 49.9, "skipped_per_s": 0})


def test_the_bench_tells_of_a_small_fleet(scraper: Path) -> None:
    """Start, rest, scrapes, in tables."""
    command = [sys.executable, "-m", "bench.scale", "--servers", "6", "--servers-per-process", "3", "--seconds", "1"]
    done = subprocess.run([*command, "--step", "6"], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    assert rows[2][:2] == ["6", "3"], "six servers, a supervisor and two processes"
    assert re.fullmatch(r"\d+", rows[2][3])
    assert [row[:2] for row in rows[5:]] == [["6", "1"], ["6", "20"]]


def test_a_number_that_makes_no_sense_is_one_line() -> None:
    command = [sys.executable, "-m", "bench.scale", "--servers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "bench.scale: numbers must be above 0\n")
