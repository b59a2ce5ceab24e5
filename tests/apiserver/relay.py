"""A relay in front of the API server that can forget its connections, as a load balancer or a NAT does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_CHUNK = 65536


class Relay:
    """Passes bytes on, both ways."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._generation = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def forget(self) -> None:
        """From now on nothing passes over the connections that there are. Nobody is told; new ones work."""
        self._generation += 1

    def close(self) -> None:
        """Stop listening and close what is open."""
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink, self._generation), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, generation: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if generation == self._generation:
                    sink.sendall(data)
        if generation == self._generation:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(target: tuple[str, int]) -> Iterator[Relay]:
    """A relay to `target` for the block."""
    made = Relay(target)
    try:
        yield made
    finally:
        made.close()
