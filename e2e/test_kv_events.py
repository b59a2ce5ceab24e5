"""KV events in a cluster: a subscriber in a pod, at the endpoints that the operator publishes."""

from __future__ import annotations

import json
from pathlib import Path

from . import kv_subscriber
from .conftest import Kubectl, Object

SERVER: Object = {
    "apiVersion": "ghostfleet.dev/v1alpha1",
    "kind": "SimulatedModelServer",
    "metadata": {"name": "events"},
    "spec": {
        "model": {"name": "ghostfleet/events", "servedNames": ["events"]},
        "replicas": 2,
        "profile": {"simple": {"timeToFirstToken": "20ms", "interTokenLatency": "2ms"}},
        "kvEvents": {
            "enableKvCacheEvents": True,
            "replayEndpoint": "tcp://*:5558",
            "topic": "kv@$(POD_IP):$(PORT)@$(MODEL)",
        },
        "pod": {"terminationGracePeriodSeconds": 5},
    },
}
BLOCK = 16


def test_blocks_are_told_of_at_the_published_endpoints_and_replayed(kubectl: Kubectl) -> None:
    """Each pod of the endpoints' ConfigMap tells of the blocks of its prompts, the same ones by replay."""
    kubectl.apply(SERVER)
    for condition in ("Ready", "KVEventsReady"):
        kubectl("wait", "sms/events", f"--for=condition={condition}", "--timeout=120s")
    listed = json.loads(kubectl.get("configmap", "events-endpoints")["data"]["endpoints.yaml"])["endpoints"]
    told = {each["address"]: each for each in kubectl.get("sms", "events")["status"]["endpoints"]}
    assert len(listed) == len(told) == 2
    servers = [
        {"url": f"http://{each['address']}:{each['port']}", **told[each["address"]]["kvEvents"]} for each in listed
    ]
    script = Path(kv_subscriber.__file__).read_text()
    pod = told[listed[0]["address"]]["pod"]
    found = json.loads(kubectl("exec", "-i", pod, "--", "python3", "-", json.dumps(servers), text=script))
    for server, heard in zip(servers, found, strict=True):
        assert heard["topic"] == server["topic"] == f"kv@{server['url'].removeprefix('http://')}@events"
        stored = {number: batch[1] for number, batch in heard["replayed"]}
        assert sorted(stored) == list(range(len(heard["prompts"]))), "a batch for each prompt, from number 0 on"
        for prompt, events in zip(heard["prompts"], (stored[number] for number in sorted(stored)), strict=True):
            assert [event["type"] for event in events] == ["BlockStored"]
            assert events[0]["token_ids"] == prompt
            assert events[0]["block_size"] == BLOCK
            assert len(events[0]["block_hashes"]) == kv_subscriber.TOKENS // BLOCK
        assert [heard["number"], heard["batch"]] in heard["replayed"]
    first, second = (heard["replayed"][0][1][1][0] for heard in found)
    assert first["block_hashes"] == second["block_hashes"], "of the same prompt on two pods"
