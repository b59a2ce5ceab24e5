"""Sends batches again to subscribers that missed some: vLLM's ROUTER socket.

Source: vLLM 0.33 distributed/kv_events.py, `_service_replay`; before 0.26 without the topic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import zmq

END: Final = b"\xff" * 8
"""The sequence number of the frame behind the last batch: -1."""

_AT_ONCE: Final = 32
"""Batches that are sent before others have their turn on the event loop."""
_log = logging.getLogger("ghostfleet.kv-events")


class Replay:
    """Answers `(empty, first sequence number)` with every batch that is kept from there on, and a marker.

    A batch is `(empty, topic, sequence number, payload)`, the marker `(empty, empty, -1, empty)`. Requests are answered
    one after the other.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], kept: Sequence[tuple[int, bytes]], buffer_steps: int, topic: tuple[bytes, ...]
    ) -> None:
        """`topic` is the frame before the sequence number, or nothing where the release has none."""
        # Reads are acknowledged every half of the mark, so twice as much is needed for all of it to fit.
        socket.setsockopt(zmq.SNDHWM, 2 * (buffer_steps + 1))
        socket.setsockopt(zmq.LINGER, 0)
        self._socket = socket
        self._kept = kept
        self._topic = topic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._readable()  # what came before

    def close(self) -> None:
        """Answer no more."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        if self._task is not None:
            self._task.cancel()
        self._socket.close()

    def _readable(self) -> None:
        if self._task is None and self._loop is not None:
            self._task = self._loop.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        # The descriptor of a socket only tells that something changed, so everything there is must be read.
        try:
            while True:
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    return
                await self._answer(frames)
        finally:
            self._task = None

    async def _answer(self, request: list[bytes]) -> None:
        if len(request) != 3:
            _log.warning("Invalid replay request: %s", request)
            return
        client, _, begin = request
        first = int.from_bytes(begin, "big")
        sent = 0
        for number, payload in list(self._kept):
            if number >= first:
                self._socket.send_multipart((client, b"", *self._topic, number.to_bytes(8, "big"), payload))
                sent += 1
                if sent % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        self._socket.send_multipart((client, b"", *(b"" for _ in self._topic), END, b""))
