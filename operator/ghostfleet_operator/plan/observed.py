"""What is known about one replica, as a watch and the replica itself told it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ghostfleet_operator.resolve import PORT
from ghostfleet_simulator.document import Document

DOCUMENT_FILE: Final = "server.json"
"""Key of the ConfigMap that pods read their document from, unless they were made to keep the one they started with."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One pod of a server that is not being deleted; `revision` and `hash` are what it last said that it runs."""

    name: str
    address: str | None
    """IP address, once it has one."""
    ready: bool
    """The Ready condition of the pod: whether it takes requests."""
    labels: Mapping[str, str] = field(default_factory=dict)
    revision: int | None = None
    hash: str | None = None
    reason: str | None = None
    """Why there is no acknowledgement, or why it is not the one that was asked for."""
    refused: tuple[int, str] | None = None
    """HTTP status with which it refused a document, and that document's hash."""
    restarts: int = 0
    """Times that its containers were restarted."""
    requests: int = 0
    """Requests that ended since its start."""
    errors: int = 0
    """Those of them that failed."""
    silent: str | None = None
    """Why nobody hears its KV events, as it said last."""
    file: str = DOCUMENT_FILE
    """Key of the ConfigMap that it reads its document from."""
    trouble: tuple[str, str] | None = None
    """Why it is not Ready, as a word and a text."""
    ports: tuple[int, ...] = (PORT,)
    """Those on which it takes requests; where its ranks have ports, it may be told to leave some of them out."""
    has_ranks: bool = False
    """Its ranks have ports of their own, the first of them `PORT`."""

    @property
    def reachable(self) -> bool:
        """Whether it should answer: Ready, with an address."""
        return self.ready and self.address is not None

    def runs(self, document: Document) -> bool:
        """Whether it last said that it runs exactly this document."""
        return self.revision == document.revision and self.hash == document.hash


def serving(replicas: tuple[Replica, ...]) -> list[tuple[Replica, str]]:
    """Replicas that take requests with their IPv4 addresses, by name; schedulers read no other family from files."""
    found = [(r, r.address) for r in replicas if r.ready and r.address and _is_ipv4(r.address)]
    return sorted(found, key=lambda pair: pair[0].name)


def _is_ipv4(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 4
    except ValueError:
        return False
