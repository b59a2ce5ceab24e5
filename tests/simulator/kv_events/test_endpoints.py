"""Where a rank publishes, and under which topic."""

from __future__ import annotations

import pytest

from ghostfleet_simulator.config import ServerConfig, binds
from ghostfleet_simulator.kv_events.endpoints import Place


def place(
    rank: int = 0, environ: dict[str, str] | None = None, host: str = "", offset: int = 0, **fields: str
) -> Place:
    config = ServerConfig.model_validate(
        {
            "model": {"name": "org/model", "servedNames": ["m", "n"]},
            "kvEvents": {"enableKvCacheEvents": True, **fields},
            "listen": {"host": host, "port": 8000, "kvEventsPortOffset": offset},
        }
    )
    return Place.of(config, rank, environ or {})


@pytest.mark.parametrize(
    ("endpoint", "bound"),
    [
        ("tcp://*:5557", True),
        ("tcp://[::]:5557", True),
        ("ipc:///run/kv", True),
        ("inproc://kv", True),
        ("tcp://127.0.0.1:5557", False),
        ("tcp://epp.svc:5557", False),
    ],
)
def test_what_is_bound_and_what_is_connected_to(endpoint: str, bound: bool) -> None:
    """vLLM's rule: a wildcard, and ipc and inproc, are bound."""
    assert binds(endpoint) is bound


@pytest.mark.parametrize(
    ("rank", "endpoint", "expected"),
    [
        (0, "tcp://*:5557", "tcp://*:5557"),
        (3, "tcp://*:5557", "tcp://*:5560"),
        (3, "tcp://epp:5557", "tcp://epp:5560"),
        (3, "tcp://*:0", "tcp://*:0"),
        (2, "inproc://kv", "inproc://kv_dp2"),
    ],
)
def test_each_rank_has_a_port_of_its_own(rank: int, endpoint: str, expected: str) -> None:
    """The port and the rank together, for replay as well; a port that the system chooses is left alone."""
    assert place(rank, endpoint=endpoint).endpoint == expected
    assert place(rank, replayEndpoint="tcp://*:5600").replay_endpoint == f"tcp://*:{5600 + rank}"


def test_servers_on_one_address_are_told_apart_by_an_offset() -> None:
    """It moves what is bound and leaves what is connected to."""
    moved = place(1, offset=10, endpoint="tcp://*:5557", replayEndpoint="tcp://*:5600")
    assert (moved.endpoint, moved.replay_endpoint) == ("tcp://*:5568", "tcp://*:5611")
    assert place(1, offset=10, endpoint="tcp://epp:5557").endpoint == "tcp://epp:5558"


@pytest.mark.parametrize(
    ("host", "bound"),
    [
        ("", "tcp://*:5557"),
        ("0.0.0.0", "tcp://*:5557"),
        ("127.0.0.3", "tcp://127.0.0.3:5557"),
        ("::1", "tcp://[::1]:5557"),
    ],
)
def test_a_star_is_the_address_the_server_listens_on(host: str, bound: str) -> None:
    """So servers on addresses of their own have the same port; what is shown keeps the star."""
    here = place(host=host)
    assert here.bound(here.endpoint) == bound
    assert here.to_json(here.endpoint, None)["endpoint"] == "tcp://*:5557"


def test_port_0_binds_the_address_of_the_machine() -> None:
    """`VLLM_HOST_IP` names it, as in vLLM; else the pod's."""
    assert place(environ={"VLLM_HOST_IP": "10.0.0.9"}, endpoint="tcp://*:0").bound("tcp://*:0") == "tcp://10.0.0.9:0"
    assert place(environ={"POD_IP": "10.0.0.8"}, endpoint="tcp://*:0").bound("tcp://*:0") == "tcp://10.0.0.8:0"
    assert place(host="127.0.0.3", endpoint="tcp://*:0").bound("tcp://*:0") == "tcp://127.0.0.3:0"


def test_a_topic_names_the_pod() -> None:
    """What schedulers want to read in it; what is not known stays as it was written."""
    topic = "kv@$(POD_IP):$(PORT)@$(MODEL)"
    assert place(environ={"POD_IP": "10.1.2.3"}, topic=topic).topic == "kv@10.1.2.3:8000@m"
    assert place(host="127.0.0.2", topic=topic).topic == "kv@127.0.0.2:8000@m"
    environ = {"POD_NAME": "p-1", "POD_NAMESPACE": "ns"}
    assert place(2, environ, topic="$(POD_NAME).$(POD_NAMESPACE)/$(RANK)/$(OTHER)").topic == "p-1.ns/2/$(OTHER)"
