"""`kv_transfer_params` of requests and answers, by connector: what is fetched for a request, and of it.

Pure. Sources: vLLM 0.12 to 0.33 distributed/kv_transfer/kv_connector/v1/nixl (pull_scheduler.py) and mooncake
(mooncake_connector.py), vLLM 0.33 v1/kv_offload/tiering/p2p/manager.py; llm-d's pd-sidecar for SGLang's fields, and
SGLang's srt/disaggregation/prefill.py for its answer: a token, and `length`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ghostfleet_simulator.config import KVConnector, KVTransfer
from ghostfleet_simulator.engine.sequence import Sequence
from ghostfleet_simulator.engine.transfer import Incoming, Outgoing
from ghostfleet_simulator.versions import Conduct

_log = logging.getLogger("ghostfleet.transfer")

_LEASES: Final = {KVConnector.OFFLOADING: 60.0}
_LEASE_S: Final = 30.0
_FIXED_S: Final = 480.0
_LENGTH: Final = frozenset({"length"})
_LENGTH_OR_STOP: Final = frozenset({"length", "stop"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where the keys and values of a prompt are to be had."""

    address: str
    """`http://HOST:PORT` of the other server's side channel."""
    key: str
    """What the other server calls them."""
    engine_id: str | None
    """What the other server calls itself, where the request says so."""
    early: bool
    """They may be asked for before the other server has the request: both are sent at once."""


Roles = tuple[Incoming | None, Outgoing | None]
_NEITHER: Final[Roles] = (None, None)


def lease_seconds(settings: KVTransfer, conduct: Conduct) -> float:
    """How long blocks are held unless a heartbeat comes."""
    if settings.lease is not None:
        return settings.lease.seconds
    if settings.kv_connector is KVConnector.NIXL and conduct.leases_blocks:
        return _LEASE_S
    return _LEASES.get(settings.kv_connector or KVConnector.NIXL, _FIXED_S)


class Protocol:
    """How one server reads and writes the parameters of its connector."""

    def __init__(self, settings: KVTransfer, conduct: Conduct, engine_id: str, host: str, port: int) -> None:
        """`host` and `port` are those under which others find its side channel."""
        self._settings = settings
        self._conduct = conduct
        self.engine_id = engine_id
        self.host, self._port = host, port
        self._lease_us = round(lease_seconds(settings, conduct) * 1e6)
        self._read = {
            KVConnector.NIXL: self._nixl,
            KVConnector.MOONCAKE: self._mooncake,
            KVConnector.OFFLOADING: self._offloading,
            KVConnector.SGLANG: self._sglang,
        }[settings.kv_connector or KVConnector.NIXL]

    def roles(self, params: Mapping[str, Any] | None, request_id: str) -> Roles:
        """What the parameters of a request make it fetch and be fetched; `request_id` is unique."""
        return self._read(params, request_id) if params else _NEITHER

    def answer(self, seq: Sequence) -> dict[str, Any] | None:
        """The `kv_transfer_params` of an answer, which only NIXL has."""
        outgoing, conduct = seq.outgoing, self._conduct
        if self._settings.kv_connector is not KVConnector.NIXL or outgoing is None or outgoing.block_ids is None:
            return None
        blocks = outgoing.block_ids
        told = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [blocks] if conduct.groups_pulled_blocks else blocks,
            "remote_engine_id": self.engine_id,
            "remote_request_id": outgoing.key if conduct.names_pulled_requests else None,
            "remote_host": self.host,
            "remote_port": self._port,
            "tp_size": 1,
            "dcp_size": 1 if conduct.tells_parallel_sizes else None,
            "pp_size": 1 if conduct.tells_parallel_sizes else None,
            "remote_num_tokens": outgoing.tokens if conduct.leases_blocks else None,
        }
        told = {name: value for name, value in told.items() if value is not None}
        if conduct.tells_expiry:
            told["remote_blocks_expiry_time"] = None
        if conduct.tells_remote_hits:
            told["remote_registration_generation"] = 1
        if conduct.tells_parallel_sizes:
            told["transfer_mode"] = "pull"
        if conduct.tells_remote_hits:
            told["remote_prefill_cached_tokens"] = seq.cached_tokens
        return told

    def _nixl(self, params: Mapping[str, Any], request_id: str) -> Roles:
        conduct, settings = self._conduct, self._settings
        if params.get("do_remote_prefill") and settings.consumes:
            # Before requests had a name of their own, the list of blocks is all that names them.
            key = params.get("remote_request_id") if conduct.names_pulled_requests else _named_by(params)
            if not params.get("remote_block_ids") or not key:
                return _invalid(params)
            address = _address(params.get("remote_host"), params.get("remote_port"))
            return self._from(address, key, params.get("remote_engine_id"), params, early=False)
        if params.get("do_remote_decode") and settings.produces:
            reasons = _LENGTH_OR_STOP if conduct.leases_blocks else _LENGTH
            return None, Outgoing(request_id, self._lease_us, reasons)
        return _NEITHER

    def _mooncake(self, params: Mapping[str, Any], request_id: str) -> Roles:
        transfer = params.get("transfer_id")
        if params.get("do_remote_prefill") and self._settings.consumes:
            address = params.get("remote_bootstrap_addr")
            if not isinstance(address, str) or not transfer or "remote_engine_id" not in params:
                return _invalid(params)
            address = address if "://" in address else f"http://{address}"
            return self._from(address, transfer, params.get("remote_engine_id"), params, early=True)
        if params.get("do_remote_decode") and self._settings.produces:
            if not transfer:
                _log.warning("%s: missing transfer_id in kv_transfer_params", request_id)
                return _NEITHER
            return None, Outgoing(str(transfer), self._lease_us, _LENGTH)
        return _NEITHER

    def _offloading(self, params: Mapping[str, Any], request_id: str) -> Roles:  # noqa: ARG002 - one shape for all
        source = params.get("remote_prefiller") or params.get("remote_kv_source")
        if isinstance(source, Mapping) and self._settings.consumes:
            address = _address(source.get("remote_host"), source.get("remote_port"))
            key = source.get("kv_request_id")
            return self._from(address, key, None, params, early=True) if key else _invalid(params)
        target = params.get("remote_decoder")
        if isinstance(target, Mapping) and target.get("kv_request_id") and self._settings.produces:
            return None, Outgoing(str(target["kv_request_id"]), self._lease_us, _LENGTH_OR_STOP)
        return _NEITHER

    def _sglang(self, params: Mapping[str, Any], request_id: str) -> Roles:  # noqa: ARG002 - one shape for all
        """Both servers get the same fields; which of them prefills is a matter of their roles."""
        room = params.get("bootstrap_room")
        if room is None:
            return _NEITHER
        if self._settings.produces:
            return None, Outgoing(str(room), self._lease_us, _LENGTH, ends_with_prompt=True)
        port = params.get("bootstrap_port")
        address = _address(params.get("bootstrap_host"), self._settings.bootstrap_port if port is None else port)
        return self._from(address, room, None, params, early=True)

    @staticmethod
    def _from(address: str | None, key: Any, engine_id: Any, params: Mapping[str, Any], *, early: bool) -> Roles:
        if address is None:
            return _invalid(params)
        cached = params.get("remote_prefill_cached_tokens")
        source = Source(address, str(key), engine_id if isinstance(engine_id, str) else None, early)
        return Incoming(source, cached if isinstance(cached, int) else None), None


def _invalid(params: Mapping[str, Any]) -> Roles:
    _log.warning("Got invalid KVTransferParams: %s. This request will not utilize KVTransfer", dict(params))
    return _NEITHER


def _address(host: Any, port: Any) -> str | None:
    if not isinstance(host, str) or not host or not str(port).isdecimal() or not 0 < int(port) < 65536:
        return None
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def _named_by(params: Mapping[str, Any]) -> str:
    return named_by_blocks(params.get("remote_block_ids"))


def named_by_blocks(blocks: Any) -> str:
    """What blocks are called that have no other name; they are held, so no two have the same."""
    return f"blocks {blocks}"
