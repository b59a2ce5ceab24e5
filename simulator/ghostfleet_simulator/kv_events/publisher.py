"""Publishes batches of KV events by ZeroMQ, as vLLM does, on the event loop of the server.

Source: vLLM 0.33 distributed/kv_events.py, ZmqEventPublisher, which has a thread for it. A thread would hold up tokens
for as long as it holds the interpreter, so here a batch is encoded and sent at once, behind the tokens of its step:
ZeroMQ's own threads do the rest, and none of its calls here waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, time
from typing import Any, Final

import zmq

from ghostfleet_simulator.config import ServerConfig, binds
from ghostfleet_simulator.engine.cache_events import CacheEvent
from ghostfleet_simulator.faults.events import Disturbance, EventFaults
from ghostfleet_simulator.kv_events.connections import Connections
from ghostfleet_simulator.kv_events.encoding import encoder_of
from ghostfleet_simulator.kv_events.endpoints import Place
from ghostfleet_simulator.kv_events.replay import Replay
from ghostfleet_simulator.metrics.own import KVEventMetrics

_LINGER_MS: Final = 500
"""How long the end of the process waits for subscribers that have not read everything."""
_log = logging.getLogger("ghostfleet.kv-events")

Frames = tuple[bytes, bytes, bytes]
"""Topic, sequence number as 8 bytes big-endian, payload."""


class Publisher:
    """The publisher of one rank. Sequence numbers begin at 0 and count batches; one that is lost leaves a gap."""

    def __init__(
        self,
        config: ServerConfig,
        faults: EventFaults,
        metrics: KVEventMetrics,
        *,
        rank: int = 0,
        environ: Mapping[str, str] = os.environ,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        """Opens the sockets, in a context of their own or in one that others use too and somebody else ends.

        Raises `OSError` where one cannot be bound.
        """
        settings = config.kv_events
        self.place = Place.of(config, rank, environ)
        self._encoder = encoder_of(config, rank)
        self._faults = faults
        self._metrics = metrics
        self._clock = clock
        self._compression = float(config.clock.compression)
        self._topic = self.place.topic.encode()
        self._sequence = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=settings.buffer_steps)
        self._queue: deque[tuple[float, Frames, Disturbance]] = deque()
        """Batches that are held up, and when each may go out, by the clock of the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._own_context = zmq.Context() if context is None else None
        context = context or self._own_context
        assert context is not None  # noqa: S101 - for the type checker
        try:
            self._socket = context.socket(zmq.PUB)
            self._socket.set_hwm(settings.hwm)
            # Says when a subscriber comes to be full; passed over in silence, it would be missed by the metrics.
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
            self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
            self._connections = Connections(self._socket, len(settings.connect) + (not binds(settings.endpoint)))
            if binds(settings.endpoint):
                self.endpoint = _bind(self._socket, self.place, self.place.endpoint)
            else:
                self.endpoint = self.place.endpoint
                self._socket.connect(self.endpoint)
            for endpoint in settings.connect:
                self._socket.connect(endpoint)
            self.replay_endpoint: str | None = None
            self._replay: Replay | None = None
            if self.place.replay_endpoint is not None:
                socket = context.socket(zmq.ROUTER)
                topic = (self._topic,) if config.engine.conduct.kv_replay_has_topic else ()
                self._replay = Replay(socket, self._kept, settings.buffer_steps, topic)
                self.replay_endpoint = _bind(socket, self.place, self.place.replay_endpoint)
        except BaseException:
            self._socket.close(linger=0)
            if self._own_context is not None:
                self._own_context.destroy(linger=0)
            raise

    def told(self) -> dict[str, Any]:
        """What the admin API tells: where somebody on this machine finds it, and how far it is."""
        return {
            "endpoint": self.place.reachable(self.endpoint),
            "replayEndpoint": self.replay_endpoint and self.place.reachable(self.replay_endpoint),
            "topic": self.place.topic,
            "sequence": self._sequence,
            "heldUp": len(self._queue),
            "connections": self._connections.told(),
        }

    def to_json(self) -> dict[str, Any]:
        """The configuration in force, as vLLM shows it, with the endpoints that are bound."""
        return self.place.to_json(self.endpoint, self.replay_endpoint)

    def start(self) -> None:
        """Begin to answer requests for replay; to be called on the event loop."""
        if self._replay is not None:
            self._replay.start()

    def publish(self, events: Sequence[CacheEvent]) -> None:
        """Publish what a step brought as one batch; none of it is waited for."""
        if not events:
            return
        began = perf_counter()
        number, self._sequence = self._sequence, self._sequence + 1
        frames = (self._topic, number.to_bytes(8, "big"), self._encoder.encode(self._clock(), events))
        disturbance = self._faults.decide() if self._faults.armed else Disturbance.NONE
        if disturbance.delay or self._queue:
            self._hold_up(frames, disturbance)
        else:
            self._send(frames, disturbance)
        self._metrics.seconds.observe(perf_counter() - began)

    def _hold_up(self, frames: Frames, disturbance: Disturbance) -> None:
        """Queue a batch behind those that wait: a delay never changes their order."""
        limit = self.place.settings.max_queue_size
        if limit and len(self._queue) >= limit:
            self._metrics.publisher_overflows.value += 1
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + disturbance.delay / self._compression
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, frames, disturbance))
        if self._timer is None:
            self._timer = loop.call_at(due, self._release)

    def _release(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue and self._queue[0][0] <= loop.time():
            _, frames, disturbance = self._queue.popleft()
            self._send(frames, disturbance)
        self._timer = loop.call_at(self._queue[0][0], self._release) if self._queue else None

    def _send(self, frames: Frames, disturbance: Disturbance) -> None:
        for _ in range(disturbance.copies):
            self._transmit(frames)
        self._kept.append((int.from_bytes(frames[1], "big"), frames[2]))

    def _transmit(self, frames: Frames) -> None:
        socket = self._socket
        try:
            socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:  # some subscriber is full now; it is passed over, and the others get it
            self._metrics.subscriber_overflows.value += 1
            socket.setsockopt(zmq.XPUB_NODROP, 0)
            socket.send_multipart(frames, zmq.NOBLOCK)
            socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._metrics.published.value += 1

    def close(self, *, abruptly: bool = False) -> None:
        """Send what is held up and close the sockets; subscribers have half a second to read the rest.

        `abruptly`: nothing more is sent.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if abruptly:
            self._queue.clear()
            self._socket.setsockopt(zmq.LINGER, 0)
        while self._queue:
            _, frames, disturbance = self._queue.popleft()
            self._send(frames, disturbance)
        if self._replay is not None:
            self._replay.close()
        self._connections.close()
        self._socket.close()
        if self._own_context is not None:
            self._own_context.term()


def _bind(socket: zmq.Socket[bytes], place: Place, endpoint: str) -> str:
    """Bind a socket; returns the endpoint as it is shown, with the port that the system chose for `tcp://*:0`."""
    bound = place.bound(endpoint)
    if "[" in bound:
        socket.setsockopt(zmq.IPV6, 1)
    try:
        socket.bind(bound)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise OSError(error.errno, os.strerror(error.errno or 0), f"{bound} (kvEvents)") from None
    _log.info("KV events: listening on %s", bound)
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT)) if endpoint == "tcp://*:0" else endpoint
