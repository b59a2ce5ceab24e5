"""Which of the connections that a publisher is to make stand; ZeroMQ makes them behind its back, again and again."""

from __future__ import annotations

from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message


class Connections:
    """Counts connections of a socket that connects; costs nothing until it is asked."""

    def __init__(self, socket: zmq.Socket[bytes], wanted: int) -> None:
        """To be called before the socket connects to `wanted` endpoints."""
        self._wanted = wanted
        self._made: set[int] = set()
        """File descriptors of those that stand."""
        self._socket = socket
        self._monitor = socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED) if wanted else None

    def told(self) -> dict[str, Any]:
        """How many are wanted, and how many stand."""
        while self._monitor and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            if event["event"] == zmq.EVENT_CONNECTED:
                self._made.add(event["value"])
            else:
                self._made.discard(event["value"])
        return {"wanted": self._wanted, "made": len(self._made)}

    def close(self) -> None:
        """To be called before the socket is closed."""
        if self._monitor:
            self._socket.disable_monitor()
            self._monitor = None
