"""Where a rank publishes: endpoints and topic as the configuration means them for this process.

Source: vLLM 0.33 distributed/kv_events.py, ZmqEventPublisher.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ghostfleet_simulator.config import KVEvents, ServerConfig, binds, tcp_port

_EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104 - what a server may listen on


@dataclass(frozen=True, slots=True)
class Place:
    """What one rank publishes on. `endpoint` and `replay_endpoint` are as vLLM shows them, `*` included."""

    settings: KVEvents
    rank: int
    host: str
    """Address that `*` stands for; itself where the server listens everywhere."""
    endpoint: str
    replay_endpoint: str | None
    topic: str
    node: str
    """Address of the machine, which `tcp://*:0` is bound to where the server listens everywhere; may be empty."""

    @classmethod
    def of(cls, config: ServerConfig, rank: int, environ: Mapping[str, str]) -> Place:
        """The place of a rank; the environment says what `$(POD_IP)` is, and so on."""
        settings, listen = config.kv_events, config.listen
        host = "*" if listen.host in _EVERYWHERE else _bracketed(listen.host)
        shift = rank + listen.kv_events_port_offset
        replay = settings.replay_endpoint
        return cls(
            settings,
            rank,
            host,
            _shifted(settings.endpoint, shift if binds(settings.endpoint) else rank, rank),
            None if replay is None else _shifted(replay, shift, rank),
            _filled(settings.topic, config, rank, environ),
            environ.get("VLLM_HOST_IP") or environ.get("POD_IP") or "",
        )

    def bound(self, endpoint: str) -> str:
        """An endpoint to be bound, as ZeroMQ wants it. Raises `OSError` where vLLM would not know the address."""
        if endpoint == "tcp://*:0":
            return f"tcp://{self._own_address()}:0"
        return endpoint.replace("*", self.host, 1) if endpoint.startswith("tcp://") else endpoint

    def _own_address(self) -> str:
        if self.host != "*":
            return self.host
        address = self.node or _route_out()
        if not address:
            raise OSError(None, "the address of this machine is not known; set VLLM_HOST_IP", "tcp://*:0 (kvEvents)")
        return _bracketed(address)

    def reachable(self, endpoint: str, address: str = "127.0.0.1") -> str:
        """An endpoint as somebody connects to it who finds a server that listens everywhere at `address`."""
        host = _bracketed(address) if self.host == "*" else self.host
        return endpoint.replace("*", host, 1) if endpoint.startswith("tcp://") else endpoint

    def to_json(self, endpoint: str, replay_endpoint: str | None) -> dict[str, Any]:
        """What `GET /kv_event_sources` shows, with the endpoints that were bound in the end."""
        settings = self.settings
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": endpoint,
            "replay_endpoint": replay_endpoint,
            "buffer_steps": settings.buffer_steps,
            "hwm": settings.hwm,
            "max_queue_size": settings.max_queue_size,
            "topic": self.topic,
        }


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _route_out() -> str:
    """The address that packets to elsewhere would come from; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _shifted(endpoint: str, shift: int, rank: int) -> str:
    """vLLM's `offset_endpoint_port`; port 0 is left to the system."""
    if endpoint.startswith("inproc://"):
        return f"{endpoint}_dp{rank}" if rank else endpoint
    port = tcp_port(endpoint)
    return f"{endpoint[: endpoint.rindex(':')]}:{port + shift}" if port and shift else endpoint


def _filled(topic: str, config: ServerConfig, rank: int, environ: Mapping[str, str]) -> str:
    host = config.listen.host
    known = {
        "POD_IP": environ.get("POD_IP") or ("127.0.0.1" if host in _EVERYWHERE else host),
        "POD_NAME": environ.get("POD_NAME", ""),
        "POD_NAMESPACE": environ.get("POD_NAMESPACE") or environ.get("NAMESPACE", ""),
        "PORT": str(config.listen.port),
        "MODEL": config.model.aliases[0],
        "RANK": str(rank),
    }
    return re.sub(r"\$\(([A-Z_]+)\)", lambda found: known.get(found[1], found[0]), topic)
