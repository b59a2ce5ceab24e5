"""The ports of a replica: how they are named in pods and Services, and which of them take requests.

Source of the annotation, and of the names that its endpoints have: llm-d-router, pkg/epp/datastore/datastore.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ghostfleet_operator.resolve import PORT
from ghostfleet_simulator.config import GREATEST_PORT, ServerConfig

ACTIVE_PORTS_ANNOTATION: Final = "llm-d.ai/active-ports"
"""Tells endpoint pickers on which of its pool's ports a pod takes requests; without it on all of them."""
_EVENTS: Final = {"endpoint": "kv-events", "replayEndpoint": "kv-replay"}


def api_ports(config: ServerConfig) -> list[tuple[str, int]]:
    """Names and numbers of the ports of the API: `http` and, where ranks have ports, `http-1`, `http-2`, ..."""
    return [(_numbered("http", index), port) for index, port in enumerate(config.ports)]


def event_ports(config: ServerConfig) -> list[tuple[str, int]]:
    """Names and numbers of the ports on which KV events are published and sent again, of each rank."""
    bound = config.kv_events.bound_ports
    return [(_numbered(_EVENTS[field], rank), port + rank) for rank in config.ranks for field, port in bound.items()]


def port_annotations(config: ServerConfig) -> dict[str, str]:
    """What a pod tells endpoint pickers of its ports."""
    if not config.data_parallel_port_per_rank:
        return {}
    return {ACTIVE_PORTS_ANNOTATION: ",".join(map(str, config.ports))}


def active_ports(annotations: Mapping[str, str]) -> tuple[int, ...]:
    """The ports on which a pod takes requests, by its annotations. What is no port is left out, as pickers do."""
    listed = annotations.get(ACTIVE_PORTS_ANNOTATION)
    if listed is None:
        return (PORT,)
    numbers = {int(word) for word in map(str.strip, listed.split(",")) if re.fullmatch("[0-9]{1,5}", word)}
    return tuple(sorted(number for number in numbers if 0 < number <= GREATEST_PORT))


def endpoint_name(replica: str, rank: int | None) -> str:
    """The name of an endpoint: that of its replica and, where that has several, of the rank, as pickers have it."""
    return replica if rank is None else f"{replica}-rank-{rank}"


def _numbered(name: str, number: int) -> str:
    return f"{name}-{number}" if number else name
