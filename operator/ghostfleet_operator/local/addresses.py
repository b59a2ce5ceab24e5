"""Where each replica listens: an address of its own with the ports of a pod, or ports of its own on one address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ghostfleet_operator.resolve import ADMIN_PORT, PORT
from ghostfleet_simulator.config import KVEvents, tcp_port

_FIRST: Final = ipaddress.IPv4Address("127.0.0.2")
_PROBE: Final = "127.77.13.7"
"""An address nobody uses: what is taken here is taken on every address."""
_MOST_ADDRESSES: Final = 16384
_MOST_PORTS: Final = 1000
_KV_EVENTS_PORT: Final = tcp_port(KVEvents().endpoint) or 0
_RANKS: Final = 16
"""Ports that are left to the ranks of a server, and to its replay, before those of the next one."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where one replica listens."""

    host: str
    port: int
    admin_port: int
    kv_events_offset: int = 0
    """What is added to the ports on which KV events are published."""

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://{self.host}:{self.port}"

    @property
    def admin_url(self) -> str:
        """Base URL of the admin API."""
        return f"http://{self.host}:{self.admin_port}"

    def is_free(self, ranks: int = 1) -> bool:
        """Whether the ports of the API, one for each of `ranks`, and that of the admin API can be bound now."""
        return all(_free(self.host, port) for port in (*self.ports(ranks), self.admin_port))

    def ports(self, ranks: int) -> range:
        """The ports of the API of a replica where as many ranks have one each."""
        return range(self.port, self.port + ranks)


class NoAddress(Exception):
    """There is no address left to listen on."""


class Addresses:
    """Hands out addresses of this machine; one that another program holds is passed over.

    On Linux every address of 127.0.0.0/8 is there without further ado. Elsewhere there is only 127.0.0.1, and replicas
    differ in their ports.
    """

    def __init__(self) -> None:
        self._taken: dict[Address, tuple[int, int]] = {}
        """How many ports of the API each one has, and which of the candidates it was."""
        self._own_hosts = _bindable(str(_FIRST))

    def take(self, ranks: int = 1) -> Address:
        """An address with as many ports in a row free; it stays taken until it is given back. Raises `NoAddress`."""
        passed_over = {index for _, index in self._taken.values()}
        make, number = self._candidates()
        for index in range(number):
            if index in passed_over:
                continue
            candidate = make(index)
            if not self._is_taken(candidate, ranks) and candidate.is_free(ranks):
                self._taken[candidate] = ranks, index
                return candidate
        raise NoAddress(f"no address of this machine has {ranks + 1} free ports for another replica")

    def _is_taken(self, candidate: Address, ranks: int) -> bool:
        if self._own_hosts:
            return candidate in self._taken
        wanted = set(candidate.ports(ranks))
        return any(
            candidate.admin_port == address.admin_port or wanted & set(address.ports(count))
            for address, (count, _) in self._taken.items()
        )

    def give_back(self, address: Address) -> None:
        """Lets `address` be taken again."""
        self._taken.pop(address, None)

    def _candidates(self) -> tuple[Callable[[int], Address], int]:
        """What makes a candidate of an index, and how many there are."""
        if not self._own_hosts:
            return lambda index: Address("127.0.0.1", PORT + index, ADMIN_PORT + index, index * _RANKS), _MOST_PORTS
        # A program on all addresses (0.0.0.0:8000) leaves none to us: all replicas move to the next port together.
        port = next((p for p in range(PORT, PORT + 1000) if _free(_PROBE, p)), PORT)
        admin_port = next(
            (p for p in range(ADMIN_PORT, ADMIN_PORT + 1000) if p != port and _free(_PROBE, p)), ADMIN_PORT
        )
        offset = next((n for n in range(1000) if _free(_PROBE, _KV_EVENTS_PORT + n)), 0)
        return lambda index: Address(str(_FIRST + index), port, admin_port, offset), _MOST_ADDRESSES


def _bindable(host: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
