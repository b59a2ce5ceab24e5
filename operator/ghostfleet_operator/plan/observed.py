"""What is known about one replica, as a watch and the replica itself told it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field


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


def serving(replicas: tuple[Replica, ...]) -> list[tuple[Replica, str]]:
    """Replicas that take requests with their IPv4 addresses, by name; schedulers read no other family from files."""
    found = [(r, r.address) for r in replicas if r.ready and r.address and _is_ipv4(r.address)]
    return sorted(found, key=lambda pair: pair[0].name)


def _is_ipv4(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 4
    except ValueError:
        return False
