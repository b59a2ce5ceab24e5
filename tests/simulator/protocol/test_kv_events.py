"""KV events of a real server process, as a subscriber on another socket sees them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import zmq
from tests.served import Serve, Served, free_port

TIMES = ["--time-to-first-token", "300ms", "--inter-token-latency", "20ms"]
WAIT_MS = 5000


@dataclass
class Heard:
    """One batch."""

    topic: str
    number: int
    batch: list[Any]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.batch[1]]


@dataclass
class Publishing:
    """A server with a subscriber that has all its events."""

    served: Served
    port: int
    replay_port: int
    subscriber: zmq.Socket[bytes]

    def heard(self, wait_ms: int = WAIT_MS) -> Heard:
        assert self.subscriber.poll(wait_ms), "no batch came"
        topic, number, payload = self.subscriber.recv_multipart()
        return Heard(topic.decode(), int.from_bytes(number, "big"), msgspec.msgpack.decode(payload))

    def complete(self, prompt: list[int], max_tokens: int = 1, **more: Any) -> dict[str, Any]:
        body = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, **more}
        answer = httpx.post(f"{self.served.url}/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


def publishing(serve: Serve, context: zmq.Context[zmq.Socket[bytes]], *flags: str, **config: Any) -> Publishing:
    """Subscribed before the server is there: a subscriber that connects later misses what was before."""
    port, replay_port = free_port(), free_port()
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.RECONNECT_IVL, 10)
    subscriber.subscribe(b"")
    subscriber.connect(f"tcp://127.0.0.1:{port}")
    settings = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{port}",
        "replay_endpoint": f"tcp://*:{replay_port}",
        "topic": "kv@$(POD_IP):$(PORT)@$(MODEL)",
    } | config
    served = serve("--kv-events-config", json.dumps(settings), *flags)
    made = Publishing(served, port, replay_port, subscriber)
    made.complete([9] * 16)
    number = made.heard(WAIT_MS).number  # the subscription has arrived by now, or this fails
    assert number == 0
    return made


@pytest.fixture(scope="module")
def told(serve: Serve, context: zmq.Context[zmq.Socket[bytes]]) -> Publishing:
    return publishing(serve, context, *TIMES)


def test_blocks_of_a_prompt_are_told_of_with_its_first_token(told: Publishing) -> None:
    """Not when the prompt is scheduled: the batch comes behind the step's output, then one for each further block."""
    began = time.time()
    told.complete(list(range(100, 132)), 18)
    first, second = told.heard(), told.heard()
    assert began + 0.25 < first.batch[0] < second.batch[0] - 0.2
    assert first.topic == f"kv@127.0.0.1:{told.served.port}@m"
    (stored,) = first.batch[1]
    assert (stored["token_ids"], len(stored["block_hashes"])) == (list(range(100, 132)), 2)
    (following,) = second.batch[1]
    assert following["parent_block_hash"] == stored["block_hashes"][-1]
    assert len(following["token_ids"]) == 16
    assert first.batch[2] == second.batch[2] == 0


def test_the_sources_are_listed(told: Publishing) -> None:
    """vLLM 0.31 and later: the configuration of each rank; the admin API tells where it is found."""
    sources = httpx.get(f"{told.served.url}/kv_event_sources").json()
    assert sources == {
        "0": {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"tcp://*:{told.port}",
            "replay_endpoint": f"tcp://*:{told.replay_port}",
            "buffer_steps": 10000,
            "hwm": 100000,
            "max_queue_size": 100000,
            "topic": f"kv@127.0.0.1:{told.served.port}@m",
        }
    }
    state = told.served.state()["kvEvents"]
    assert state["endpoint"] == f"tcp://127.0.0.1:{told.port}"
    assert state["replayEndpoint"] == f"tcp://127.0.0.1:{told.replay_port}"
    assert state["sequence"] > 0


def test_replay_of_a_server(told: Publishing, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """All batches from the first one, in order, then the marker."""
    socket = context.socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{told.replay_port}")
    socket.send_multipart([b"", bytes(8)])
    numbers = []
    while True:
        assert socket.poll(WAIT_MS)
        _, _, number, payload = socket.recv_multipart()
        if not payload:
            break
        numbers.append(int.from_bytes(number, "big"))
    assert numbers == list(range(told.served.state()["kvEvents"]["sequence"]))


def test_a_request_names_its_session_and_may_want_its_hits_told(told: Publishing) -> None:
    """By body, header or `vllm_xargs`; hits are one event without a parent, before the blocks that are new."""
    told.complete([3] * 32, session_id="s-1")
    assert told.heard().batch[1][0]["session_id"] == "s-1"
    told.complete([3] * 48, vllm_xargs={"kv_cache_report_mode": "full", "session_id": "s-2"})
    hits, new = told.heard().batch[1]
    assert (len(hits["block_hashes"]), hits["parent_block_hash"], hits["session_id"]) == (2, None, "s-2")
    assert (new["parent_block_hash"], len(new["block_hashes"])) == (hits["block_hashes"][-1], 1)
    body = {"token_ids": [4] * 16, "sampling_params": {"max_tokens": 1}}
    answer = httpx.post(f"{told.served.url}/inference/v1/generate", json=body, headers={"X-Session-ID": "s-3"})
    assert answer.status_code == 200
    assert told.heard().batch[1][0]["session_id"] == "s-3"


def test_injected_loss_comes_and_goes_without_a_restart(told: Publishing) -> None:
    """The number of the lost batch is missing; the fault is counted."""
    before = told.served.state()["kvEvents"]["sequence"]
    patch = {"failures": [{"type": "KVEventLoss"}]}
    assert httpx.patch(f"{told.served.admin_url}/admin/config", json=patch).status_code == 200
    told.complete([1] * 16)
    assert httpx.patch(f"{told.served.admin_url}/admin/config", json={"failures": []}).status_code == 200
    told.complete([2] * 16)
    assert told.heard().number == before + 1
    metrics = httpx.get(f"{told.served.url}/metrics").text
    assert 'ghostfleet_faults_total{type="KVEventLoss"} 1\n' in metrics
    assert f"ghostfleet_kv_event_batches_total {before + 1}\n" in metrics


def test_a_reset_is_told_with_the_next_step(serve: Serve, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """The answer to the reset comes first; a restarted server begins with 0 again."""
    told = publishing(serve, context, "--server-dev-mode")
    assert httpx.post(f"{told.served.url}/reset_prefix_cache").json() == {"success": True}
    assert not told.subscriber.poll(300)
    told.complete([5] * 32)
    assert told.heard().kinds == ["AllBlocksCleared", "BlockStored"]
    told.served.process.terminate()
    told.served.process.wait(20)
    assert publishing(serve, context).served.state()["kvEvents"]["sequence"] == 1


@pytest.mark.parametrize(("version", "kind"), [("0.23", list), ("0.33", dict)])
def test_equal_servers_tell_of_equal_blocks(
    serve: Serve, context: zmq.Context[zmq.Socket[bytes]], version: str, kind: type
) -> None:
    """Hashes follow from content, so a fleet with a seed agrees; the encoding is that of the version."""
    environment = {"PYTHONHASHSEED": "42", "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": "0"}
    events = []
    for _ in range(2):
        served = serve(
            *("--vllm-version", version),
            *("--kv-events-config.enable_kv_cache_events", "true"),
            *("--kv-events-config.endpoint", f"tcp://*:{(port := free_port())}"),
            *("--kv-events-config.replay_endpoint", f"tcp://*:{(replay := free_port())}"),
            environment=environment,
        )
        assert port != replay
        answer = httpx.post(f"{served.url}/v1/completions", json={"prompt": list(range(32)), "max_tokens": 1})
        assert answer.status_code == 200
        socket = context.socket(zmq.REQ)
        socket.connect(f"tcp://127.0.0.1:{replay}")
        socket.send(bytes(8))
        assert socket.poll(WAIT_MS)
        (event,) = msgspec.msgpack.decode(socket.recv_multipart()[-1])[1]
        events.append(event)
    assert events[0] == events[1]
    assert isinstance(events[0], kind)
    hashes = events[0]["block_hashes"] if isinstance(events[0], dict) else events[0][1]
    assert [len(block_hash) for block_hash in hashes] == [32, 32]


def test_tiers_are_told_of_and_measured(serve: Serve, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    """Blocks come to host memory, leave the GPU, and come back: events by medium, metrics by source."""
    file = tmp_path / "server.yaml"
    size = {"blocks": 9, "bytesPerToken": "1Ki", "tiers": [{"medium": "CPU", "capacity": "1Mi"}]}
    file.write_text(json.dumps({"model": {"name": "m", "maxModelLen": 128}, "kvCache": size}))
    told = publishing(serve, context, "--config", str(file), "--enable-prompt-tokens-details")
    answers = [told.complete([family] * 65) for family in (1, 2, 1)]
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
    assert cached == [0, 0, 64]
    events = []
    while told.subscriber.poll(500):
        events += told.heard().batch[1]
    on_host = [e for e in events if e.get("medium") == "CPU"]
    assert {e["type"] for e in on_host} == {"BlockStored"}
    assert all(e["token_ids"] == [] and len(e["block_hashes"]) == 1 for e in on_host)
    assert len(on_host) >= 8
    metrics = httpx.get(f"{told.served.url}/metrics").text
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line[0] != "#"}
    labels = 'engine="0",model_name="m"'
    host = values[f'vllm:prompt_tokens_cached_by_source_total{{{labels},source="host"}}']
    device = values[f'vllm:prompt_tokens_cached_by_source_total{{{labels},source="device"}}']
    assert host > 0
    assert host + device == 64
    assert values[f"vllm:external_prefix_cache_hits_total{{{labels}}}"] == host
    assert values[f"vllm:prefix_cache_hits_total{{{labels}}}"] == device
    assert values[f'vllm:prompt_tokens_by_source_total{{{labels},source="external_kv_transfer"}}'] == host
    assert values[f"vllm:kv_offload_load_bytes_total{{{labels}}}"] == host * 1024
    assert values[f"vllm:kv_offload_store_bytes_total{{{labels}}}"] >= 8 * 16 * 1024


def test_a_taken_port_ends_the_process_with_one_line(serve: Serve, tmp_path: Any) -> None:
    """As for the port of the API."""
    port = free_port()
    config = json.dumps({"enable_kv_cache_events": True, "endpoint": f"tcp://*:{port}"})
    serve("--kv-events-config", config)
    with pytest.raises(
        AssertionError, match=rf"cannot listen on tcp://127\.0\.0\.1:{port} \(kvEvents\): Address already in use"
    ):
        serve("--kv-events-config", config)


def test_off_by_default(serve: Serve) -> None:
    """Nothing is opened, nothing is listed, no series is there."""
    served = serve()
    assert httpx.get(f"{served.url}/kv_event_sources").json() == {}
    assert served.state()["kvEvents"] is None
    assert "kv_event" not in httpx.get(f"{served.url}/metrics").text.replace("/kv_event_sources", "")
