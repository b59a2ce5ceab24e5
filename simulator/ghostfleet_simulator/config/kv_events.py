"""What a server publishes of its KV cache, and where: vLLM's `--kv-events-config`, and what is ours beside it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from ghostfleet_simulator.config.base import Flag, Settings, Switch, Whole, problem

_TCP = r"tcp://[^\x00-\x20\x7f/]+:[0-9]{1,5}"

BoundOrConnected = Annotated[
    str, StringConstraints(max_length=253, pattern=rf"^({_TCP}|ipc://[^\x00-\x20\x7f]+|inproc://[^\x00-\x20\x7f]+)$")
]
Connected = Annotated[str, StringConstraints(max_length=253, pattern=rf"^({_TCP}|ipc://[^\x00-\x20\x7f]+)$")]


class EventPublisher(StrEnum):
    """Who is told, under vLLM's names."""

    NULL = "null"
    ZMQ = "zmq"


def tcp_port(endpoint: str | None) -> int | None:
    """The port in an endpoint; None where it has none."""
    found = re.fullmatch(r"tcp://.*:([0-9]+)", endpoint or "")
    return int(found[1]) if found else None


def binds(endpoint: str) -> bool:
    """Whether a publisher binds an endpoint, by vLLM's rule; it connects to any other."""
    return "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc://", "inproc://"))


class KVEvents(Settings):
    """What a server publishes of its KV cache, and where. Fields are vLLM's, but for the last two."""

    enable_kv_cache_events: Annotated[Switch, Flag("kv-events-config.enable_kv_cache_events")] = False
    """Whether the server tells which blocks come into its prefix cache and go."""

    publisher: Annotated[EventPublisher | None, Flag("kv-events-config.publisher")] = None
    """`zmq`, or `null` for nobody. `zmq` is what happens if nothing is given."""

    endpoint: Annotated[BoundOrConnected, Flag("kv-events-config.endpoint")] = "tcp://*:5557"
    """Endpoint of the PUB socket. It is bound if there is a `*` or `::` in it and if it begins with `ipc` or `inproc`;
    to any other the server connects. `*` is the address that the server listens on, with port 0 any free port. A rank
    above 0 adds its number to the port."""

    replay_endpoint: Annotated[BoundOrConnected | None, Flag("kv-events-config.replay_endpoint")] = None
    """Endpoint of the ROUTER socket that sends batches again. It is always bound. Without it there is none. A rank
    above 0 adds its number to the port."""

    buffer_steps: Annotated[Whole, Field(ge=0, le=10_000_000), Flag("kv-events-config.buffer_steps")] = 10_000
    """Batches that are kept to be sent again, the last ones."""

    hwm: Annotated[Whole, Field(ge=0, le=2**31 - 1), Flag("kv-events-config.hwm")] = 100_000
    """High-water mark of the PUB socket. It counts batches that wait for one slow subscriber, which misses further
    ones. 0 sets no limit."""

    max_queue_size: Annotated[Whole, Field(ge=0, le=2**31 - 1), Flag("kv-events-config.max_queue_size")] = 100_000
    """Batches that may wait to be published. That happens only with an injected delay; further ones are lost. 0 sets no
    limit."""

    topic: Annotated[str, StringConstraints(max_length=1024), Flag("kv-events-config.topic")] = ""
    """First frame of every message. `$(POD_IP)`, `$(POD_NAME)`, `$(POD_NAMESPACE)`, `$(PORT)`, `$(MODEL)` and `$(RANK)`
    stand for what they say; llm-d wants `kv@$(POD_IP):$(PORT)@$(MODEL)`."""

    connect: Annotated[tuple[Connected, ...], Field(max_length=8), Flag("kv-events-connect")] = ()
    """Endpoints of subscribers that bind, to which the PUB socket connects besides."""

    int_block_hashes: Annotated[Switch, Flag("kv-events-int-block-hashes")] = True
    """Block hashes are told as numbers, their last 64 bits; else as bytes. Taken from
    `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES` where it is not given."""

    @property
    def enabled(self) -> bool:
        """Whether anything is published."""
        return self.enable_kv_cache_events and self.publisher is not EventPublisher.NULL

    @property
    def bound_ports(self) -> dict[str, int]:
        """The ports that the server listens on for this, by field; none if nothing is published."""
        if not self.enabled:
            return {}
        endpoints = {
            "endpoint": self.endpoint if binds(self.endpoint) else None,
            "replayEndpoint": self.replay_endpoint,
        }
        return {name: port for name, endpoint in endpoints.items() if (port := tcp_port(endpoint))}

    @model_validator(mode="after")
    def _ports(self) -> Self:
        named = {
            "endpoint": [self.endpoint],
            "replayEndpoint": [self.replay_endpoint] if self.replay_endpoint else [],
            "connect": list(self.connect),
        }
        for field, endpoints in named.items():
            for endpoint in endpoints:
                if (tcp_port(endpoint) or 0) > 65535:
                    raise problem(field, f"{tcp_port(endpoint)} is not a port")
        bound = list(self.bound_ports.values())
        if len(set(bound)) < len(bound):
            raise problem("replayEndpoint", f"{bound[0]} is already the port of endpoint")
        return self
