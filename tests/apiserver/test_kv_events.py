"""KV events of real simulator processes, in the status and on the wire."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
import zmq
from tests.apiserver.cluster import Cluster, Json, eventually
from tests.apiserver.control_plane import free_ports
from tests.apiserver.fleet import fleet

from ghostfleet_operator.resolve import PORT

pytestmark = pytest.mark.usefixtures("operator")


def heard(address: str, subscriber: zmq.Socket[bytes]) -> list[bytes] | None:
    """A batch of events, after a request with a new prompt. ZeroMQ may not have the subscription at the first."""
    prompt = f"{time.monotonic()}: " + "all work and no play " * 40
    asked = {"model": "org/model", "prompt": prompt, "max_tokens": 1}
    answer = httpx.post(f"http://{address}:{PORT}/v1/completions", json=asked, trust_env=False, timeout=30)
    assert answer.status_code == 200
    return subscriber.recv_multipart() if subscriber.poll(1000) else None


def test_kv_events_are_ready_once_the_subscriber_is_there_and_are_heard(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """Servers that dial a subscriber which is late: False with the reason, then True, and not while it is away."""
    (port,) = free_ports(1)
    endpoint = f"tcp://127.0.0.1:{port}"
    events = {"enableKvCacheEvents": True, "endpoint": endpoint, "topic": "kv@$(POD_IP)@$(MODEL)"}
    context = zmq.Context()

    def condition(status: str) -> Json:
        found = cluster.condition(namespace, "one", "KVEventsReady")
        assert found["status"] == status, found
        return found

    with fleet(cluster, namespace, tmp_path, "a", kvEvents=events) as running:
        running.synced(1)
        missing = eventually(lambda: condition("False"))
        assert missing["reason"] == "NotPublishing"
        assert "rank 0 stands in 0 of 1 connections to subscribers" in missing["message"]
        eventually(lambda: cluster.condition(namespace, "one", "Ready")["status"] == "True" or None)
        subscriber = context.socket(zmq.SUB)
        try:
            subscriber.subscribe(b"")
            subscriber.bind(endpoint)
            assert eventually(lambda: condition("True"))["reason"] == "Publishing"
            told = eventually(lambda: heard(running.addresses["a"], subscriber))
            assert told[0].decode() == f"kv@{running.addresses['a']}@org/model"
        finally:
            subscriber.close(linger=0)
            context.destroy(linger=0)
        eventually(lambda: condition("False"))
