"""vLLM's `--kv-transfer-config`: which of its keys mean something here, and what its connectors are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic.alias_generators import to_camel

from ghostfleet_simulator.config import PEERS, KVConnector

_MODULE: Final = "kv_connector_module_path"
_IDLE: Final = frozenset(
    {
        *("kv_buffer_device", "kv_buffer_size", "kv_port", "kv_ip", "kv_rank", "kv_parallel_size"),
        *(_MODULE, "enable_permute_local_kv"),
    }
)
_OTHER_NAMES: Final = {
    "ExampleConnector": KVConnector.SHARED_STORAGE,
    "NixlPullConnector": KVConnector.NIXL,
    "TieringOffloadingConnector": KVConnector.OFFLOADING,
}
_SIMULATED: Final = frozenset(_OTHER_NAMES) | frozenset(KVConnector)
_NOT_SIMULATED: Final = frozenset(
    {
        *("LMCacheConnectorV1", "LMCacheMPConnector", "P2pNcclConnector", "MoRIIOConnector", "MooncakeStoreConnector"),
        *("DecodeBenchConnector", "FlexKVConnectorV1", "HF3FSKVConnector", "SimpleCPUOffloadConnector"),
    }
)
"""Connectors of vLLM; so is any name that comes with a module of one's own."""
_LEASES: Final = ("kv_lease_duration", "unbound_store_timeout_s")
_MULTI: Final = "MultiConnector"


def kv_transfer_of(given: Mapping[str, Any], source: str, warnings: list[str]) -> dict[str, Any]:
    """The block that vLLM's JSON object means, but for `engine_id`, which belongs elsewhere.

    Adds a line to `warnings` for each part that means nothing here.
    """
    config = {key: value for key, value in given.items() if key != "engine_id"}
    extra = config.pop("kv_connector_extra_config", None)
    if config.get("kv_connector") == _MULTI:
        config |= _chosen(extra, source, warnings)
        extra = config.pop("kv_connector_extra_config", None)
    name = config.get("kv_connector")
    if isinstance(name, str) and (name in _NOT_SIMULATED or (config.get(_MODULE) and name not in _SIMULATED)):
        warnings.append(f"{source}: {name} is not simulated; it is skipped, and no KV cache comes or goes")
        return {}
    block: dict[str, Any] = {}
    for key, value in config.items():
        if key in _IDLE:
            warnings.append(f"{source}: {key} has no effect here; it is skipped")
        elif key == "kv_connector":
            block["kvConnector"] = _name(value)
        else:
            block[to_camel(key) if "_" in key else key] = value
    if isinstance(extra, Mapping):
        for key, value in extra.items():
            if key in _LEASES and isinstance(value, (int, float)) and not isinstance(value, bool):
                block["lease"] = f"{value}s"
            else:
                warnings.append(f"{source}: kv_connector_extra_config.{key} has no effect here; it is skipped")
    elif extra is not None:
        block["kvConnectorExtraConfig"] = extra  # validation says what is wrong with it
    return block


def _name(connector: Any) -> Any:
    return _OTHER_NAMES.get(connector, connector) if isinstance(connector, str) else connector


def _chosen(extra: Any, source: str, warnings: list[str]) -> dict[str, Any]:
    """Of several connectors the first by which servers talk to each other."""
    listed = extra.get("connectors") if isinstance(extra, Mapping) else None
    connectors = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    chosen = next((one for one in connectors if _name(one.get("kv_connector")) in PEERS), None)
    warnings += [
        f"{source}: {one.get('kv_connector')} of the {_MULTI} has no effect here; it is skipped"
        for one in connectors
        if one is not chosen
    ]
    return dict(chosen or {})
