"""Sockets that are bound and do not listen yet: a taken port is told before anything else is done."""

from __future__ import annotations

import socket


def bound(host: str, port: int) -> socket.socket:
    """A TCP socket on an address, all of them where `host` is empty. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns off Nagle's algorithm only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bound_to(listener, (host, port))


def bound_unix(path: str) -> socket.socket:
    """A Unix socket. Raises `OSError`."""
    return _bound_to(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)


def _bound_to(listener: socket.socket, address: tuple[str, int] | str) -> socket.socket:
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
