"""The scraper of the bench asks as often as it says, and takes no answer but a whole one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from bench.client import BenchError, Endpoint
from bench.report import Kind
from bench.scraping import PER_S, scrape
from bench.servers import Command
from bench.streaming import PACE, Plan, turns


@contextmanager
def answering(status: int) -> Iterator[tuple[Endpoint, list[str]]]:
    """A server that answers everything with `status`, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield Endpoint("127.0.0.1", server.server_port, "/v", "m", ()), asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_asks_sixty_times_a_second() -> None:
    began = time.monotonic()
    with answering(200) as (endpoint, asked):
        scrape(endpoint, 0.5)
    assert asked == ["/v/metrics"] * (PER_S // 2)
    assert time.monotonic() - began >= 0.45


def test_an_answer_that_is_an_error_ends_the_run() -> None:
    with answering(503) as (endpoint, _), pytest.raises(BenchError, match="/metrics answered 503"):
        scrape(endpoint, 1)


def test_no_answer_ends_the_run() -> None:
    with answering(200) as (endpoint, _):
        pass
    with pytest.raises(BenchError, match="did not answer"):
        scrape(endpoint, 1)


def test_only_the_first_server_is_scraped_and_it_without_too() -> None:
    """Each of both on a process of its own."""
    ours, other = (Command(name, f"{sys.executable} {{port}}", PACE) for name in ("ours", "other"))
    assert list(turns(Kind.SCRAPES, [ours, other])) == [("ours", ours, False), ("ours, scraped", ours, True)]
    assert list(turns(Kind.PACED, [ours, other])) == [("ours", ours, False), ("other", other, False)]
    assert [kind for kind, _, _ in Plan(kinds=[Kind.SCRAPES]).loads()] == [Kind.SCRAPES]
