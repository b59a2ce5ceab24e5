"""vLLM's `--kv-transfer-config` and its variables on our command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ghostfleet_simulator.config import KVConnector, KVRole, KVTransfer, LoadFailurePolicy
from ghostfleet_simulator.flags import LoadedConfig, load
from ghostfleet_simulator.problems import InvalidInput

MODEL = ["--model", "m"]
NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


def loaded(config: dict[str, Any], *flags: str, **environ: str) -> LoadedConfig:
    return load([*MODEL, "--kv-transfer-config", json.dumps(config), *flags], environ)


def test_without_it_nothing_is_transferred() -> None:
    transfer = load(MODEL, {}).config.kv_transfer
    assert (transfer, transfer.with_peers, transfer.produces, transfer.consumes) == (KVTransfer(), False, False, False)


def test_vllm_s_object_and_what_means_nothing_here() -> None:
    found = loaded(
        {
            **NIXL,
            "engine_id": "left",
            "kv_load_failure_policy": "recompute",
            "kv_buffer_device": "cuda",
            "kv_connector_extra_config": {"kv_lease_duration": 60, "backends": ["UCX"]},
        }
    )
    transfer = found.config.kv_transfer
    assert (transfer.kv_connector, transfer.kv_role) == (KVConnector.NIXL, KVRole.BOTH)
    assert transfer.kv_load_failure_policy is LoadFailurePolicy.RECOMPUTE
    assert transfer.lease is not None
    assert transfer.lease.seconds == 60
    assert found.config.listen.kv_engine_id == "left"
    assert found.warnings == (
        "--kv-transfer-config: kv_buffer_device has no effect here; it is skipped",
        "--kv-transfer-config: kv_connector_extra_config.backends has no effect here; it is skipped",
    )


def test_of_several_connectors_the_one_by_which_servers_talk() -> None:
    listed = [{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}, {**NIXL, "kv_role": "kv_producer"}]
    found = loaded(
        {
            "kv_connector": "MultiConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"connectors": listed},
        }
    )
    assert found.config.kv_transfer.kv_role is KVRole.PRODUCER
    assert "LMCacheConnectorV1" in found.warnings[0]


@pytest.mark.parametrize(
    "config",
    [
        {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both", "kv_connector_extra_config": {"a": 1}},
        {"kv_connector": "OurConnector", "kv_role": "kv_both", "kv_connector_module_path": "our.module"},
    ],
)
def test_another_connector_of_vllm_is_skipped_with_a_word(config: dict[str, Any]) -> None:
    """Its command line works, as that of a server without a connector."""
    found = loaded(config)
    assert found.config.kv_transfer == KVTransfer()
    (line,) = found.warnings
    assert line.startswith(f"--kv-transfer-config: {config['kv_connector']} is not simulated; it is skipped")


@pytest.mark.parametrize(
    ("config", "port"),
    [
        (NIXL, 5600),
        ({**NIXL, "kv_connector": "MooncakeConnector"}, 8998),
        ({**NIXL, "kv_connector": "SGLang", "kv_role": "kv_producer"}, 8998),
        ({**NIXL, "kv_connector": "OffloadingConnector"}, 7777),
    ],
)
def test_ports(config: dict[str, str], port: int) -> None:
    assert loaded(config).config.kv_transfer.port == port


def test_vllm_s_variables() -> None:
    found = loaded(
        NIXL,
        VLLM_NIXL_SIDE_CHANNEL_HOST="10.0.0.7",
        VLLM_NIXL_SIDE_CHANNEL_PORT="5999",
        VLLM_MOONCAKE_BOOTSTRAP_PORT="8999",
    ).config
    assert found.listen.kv_side_channel_host == "10.0.0.7"
    assert (found.kv_transfer.side_channel_port, found.kv_transfer.bootstrap_port) == (5999, 8999)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kv_connector": "NixlConnector"}, "kvRole: NixlConnector needs one of kv_producer, kv_consumer, kv_both"),
        ({**NIXL, "kv_role": "kv_all"}, "kvRole: "),
        ({**NIXL, "kv_connector": "SGLang"}, "kvRole: with SGLang a server either prefills, kv_producer, or decodes"),
        ({**NIXL, "kv_connector": "NoConnector"}, "kvConnector: "),
        ({**NIXL, "kv_load_failure_policy": "retry"}, "kvLoadFailurePolicy: "),
        ({**NIXL, "kv_what": 1}, "kvWhat: "),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        loaded(config)
    assert str(caught.value).startswith("--kv-transfer-config")
    assert message in str(caught.value)


def test_the_side_channel_needs_a_port_of_its_own() -> None:
    with pytest.raises(InvalidInput, match=r"8000 is already listen\.port"):
        loaded(NIXL, "--kv-side-channel-port", "8000")
    with pytest.raises(InvalidInput, match=r"5557 is already kvEvents\.endpoint"):
        loaded(NIXL, "--kv-side-channel-port", "5557", "--kv-events-config", '{"enable_kv_cache_events": true}')


def test_mooncake_s_bootstrap_may_share_the_port_of_the_api() -> None:
    config = {**NIXL, "kv_connector": "MooncakeConnector"}
    assert loaded(config, "--kv-bootstrap-port", "8000").config.kv_transfer.port == 8000
