"""A server that answers its admin API as told to: the party that misbehaves in a test."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.apiserver.cluster import Json

from ghostfleet_operator.resolve import ADMIN_PORT


class StandIn:
    """What it runs and how it behaves."""

    def __init__(self, document: Json) -> None:
        self.revision = int(document["revision"])
        self.hash = str(document["hash"])
        self.failed = 0
        self.asked = 0
        """Requests that came, also those that were not answered yet."""
        self._first = self.revision
        self.behave()

    def behave(self) -> None:
        """Be good from now on."""
        self.refuses = 0
        self.applies = True
        self.says_so = True
        self.seconds = 0.0
        """How long it takes for an answer."""
        self.errors = 0
        """Requests that fail between two looks at its state, once it runs another document than at first."""

    def state(self) -> Json:
        self.failed += self.errors if self.revision > self._first else 0
        return {"revision": self.revision, "hash": self.hash, "requests": {"stop": 0, "error": self.failed}}

    def put(self, document: Json) -> tuple[int, Json]:
        if self.refuses:
            return self.refuses, {"error": {"message": "not me"}}
        if self.applies:
            self.revision, self.hash = document["revision"], document["hash"]
        said = {"revision": document["revision"], "hash": document["hash"]} if self.says_so else self.state()
        return 200, said


@contextlib.contextmanager
def standing_in(host: str, document: Json) -> Iterator[StandIn]:
    """A stand-in that listens on the admin port of an address."""
    stand_in = StandIn(document)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200, stand_in.state)

        def do_PUT(self) -> None:
            stand_in.asked += 1
            document = json.loads(self.rfile.read(int(self.headers["content-length"])))
            time.sleep(stand_in.seconds)
            status, body = stand_in.put(document)
            self._send(status, body)

        def _answer(self, status: int, body: Any) -> None:
            stand_in.asked += 1
            time.sleep(stand_in.seconds)
            self._send(status, body())

        def _send(self, status: int, body: Json) -> None:
            payload = json.dumps(body).encode()
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer((host, ADMIN_PORT), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
