"""Prefill/decode disaggregation: vLLM's `--kv-transfer-config`, and what a transfer costs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import model_validator

from ghostfleet_simulator.config.base import Flag, Port, Settings, problem
from ghostfleet_simulator.units import Duration, Probability, Size


class KVConnector(StrEnum):
    """By which protocol KV cache goes from server to server. `SGLang` is no connector of vLLM's."""

    NIXL = "NixlConnector"
    MOONCAKE = "MooncakeConnector"
    OFFLOADING = "OffloadingConnector"
    SHARED_STORAGE = "SharedStorageConnector"
    SGLANG = "SGLang"


class KVRole(StrEnum):
    """Which way it goes, in vLLM's words."""

    PRODUCER = "kv_producer"
    CONSUMER = "kv_consumer"
    BOTH = "kv_both"


class LoadFailurePolicy(StrEnum):
    """What becomes of a request whose KV cache does not come, in vLLM's words."""

    FAIL = "fail"
    RECOMPUTE = "recompute"


PEERS: Final = frozenset({KVConnector.NIXL, KVConnector.MOONCAKE, KVConnector.OFFLOADING, KVConnector.SGLANG})
"""The connectors by which servers talk to each other."""

_AT_BOOTSTRAP: Final = frozenset({KVConnector.MOONCAKE, KVConnector.SGLANG})
"""Those of them whose decoding side is told the bootstrap port."""

BOOTSTRAP: Final = "kvTransfer.bootstrapPort"
"""The field with the port that may be the API's."""

_P2P_PORT: Final = 7777
"""llm-d's port of the offloading connector's P2P tier."""


class KVTransfer(Settings):
    """KV cache that goes from server to server. The first fields are vLLM's."""

    kv_connector: Annotated[KVConnector | None, Flag("kv-transfer-config.kv_connector")] = None
    """Protocol of the transfers."""

    kv_role: Annotated[KVRole | None, Flag("kv-transfer-config.kv_role")] = None
    """Which way it goes; a connector needs it. With `SGLang` it is the disaggregation mode, and not `kv_both`."""

    kv_load_failure_policy: Annotated[LoadFailurePolicy, Flag("kv-transfer-config.kv_load_failure_policy")] = (
        LoadFailurePolicy.FAIL
    )
    """What a failed transfer does to its request: it fails, or its prompt is computed here."""

    lease: Annotated[Duration | None, Flag("kv-lease-duration")] = None
    """How long blocks are held for others: 30s with NIXL, prolonged by heartbeats; 8m with others, and before vLLM
    0.23; 1m with `OffloadingConnector`."""

    bandwidth: Annotated[Size, Flag("kv-transfer-bandwidth")] = Size.parse("50G")
    """Bytes per second, each way, which transfers under way share."""

    latency: Annotated[Duration, Flag("kv-transfer-latency")] = Duration(1_000_000)
    """Added to every transfer."""

    side_channel_port: Annotated[Port | None, Flag("kv-side-channel-port")] = None
    """Port of the side channel: 5600, or 7777 with `OffloadingConnector`. As a variable also
    `VLLM_NIXL_SIDE_CHANNEL_PORT`."""

    bootstrap_port: Annotated[Port, Flag("kv-bootstrap-port")] = 8998
    """The same with Mooncake and SGLang; may be the API's. As a variable also `VLLM_MOONCAKE_BOOTSTRAP_PORT`."""

    cache_hit_threshold: Annotated[Probability | None, Flag("global-cache-hit-threshold")] = None
    """Share of a prompt that must be cached where requests have no `cache_hit_threshold` of their own."""

    @property
    def with_peers(self) -> bool:
        """Whether servers talk to each other."""
        return self.kv_connector in PEERS

    @property
    def produces(self) -> bool:
        """Whether others get KV cache from here."""
        return self.with_peers and self.kv_role is not KVRole.CONSUMER

    @property
    def consumes(self) -> bool:
        """Whether KV cache of others comes here."""
        return self.with_peers and self.kv_role is not KVRole.PRODUCER

    @property
    def bound_port(self) -> dict[str, int]:
        """The port, of rank 0, that the server listens on for this, by the field that says which it is."""
        if not self.produces:
            return {}
        return {BOOTSTRAP if self.at_bootstrap else "kvTransfer.sideChannelPort": self.port}

    @property
    def at_bootstrap(self) -> bool:
        """Whether all ranks of a server are found at one port."""
        return self.kv_connector in _AT_BOOTSTRAP

    @property
    def port(self) -> int:
        """Port of rank 0 at which others find this server."""
        if self.at_bootstrap:
            return self.bootstrap_port
        return self.side_channel_port or (_P2P_PORT if self.kv_connector is KVConnector.OFFLOADING else 5600)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kv_connector is not None and self.kv_role is None:
            roles = ", ".join(KVRole)
            raise problem("kvRole", f"{self.kv_connector} needs one of {roles}")
        if self.kv_connector is KVConnector.SGLANG and self.kv_role is KVRole.BOTH:
            raise problem("kvRole", "with SGLang a server either prefills, kv_producer, or decodes, kv_consumer")
        return self
