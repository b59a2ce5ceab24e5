"""The settings of KV events: vLLM's JSON, its dotted flags, and the same in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ghostfleet_simulator.config import EventPublisher, KVEvents
from ghostfleet_simulator.flags import load
from ghostfleet_simulator.problems import InvalidInput

GUIDE = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "tcp://*:5557", "topic": "kv@1.2.3.4:8000@m"}


def events(*argv: str, **environ: str) -> KVEvents:
    return load(["m", *argv], environ).config.kv_events


def refused(*argv: str, **environ: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        load(["m", *argv], environ)
    return [str(problem) for problem in caught.value.problems]


def test_vllms_json_is_understood() -> None:
    """With its names; all defaults are vLLM's."""
    made = events("--kv-events-config", json.dumps(GUIDE))
    assert (made.enabled, made.topic, made.endpoint) == (True, GUIDE["topic"], "tcp://*:5557")
    assert (made.buffer_steps, made.hwm, made.max_queue_size, made.replay_endpoint) == (10_000, 100_000, 100_000, None)
    assert not events().enabled


def test_fields_can_be_flags_of_their_own() -> None:
    """vLLM's dotted form, with `-` or `_`; they change what the JSON says."""
    made = events(
        *("--kv-events-config.buffer-steps", "7", "--kv-events-config", json.dumps(GUIDE)),
        *("--kv_events_config.replay_endpoint=tcp://*:5600", "--kv-events-connect", "tcp://a:1", "tcp://b:2"),
    )
    assert (made.buffer_steps, made.replay_endpoint, made.topic) == (7, "tcp://*:5600", GUIDE["topic"])
    assert made.connect == ("tcp://a:1", "tcp://b:2")
    assert events("--kv-events-config.enable_kv_cache_events").enabled


@pytest.mark.parametrize(("publisher", "enabled"), [(None, True), ("zmq", True), ("null", False)])
def test_the_publisher_decides(publisher: str | None, enabled: bool) -> None:
    """Without one it is ZeroMQ, as in vLLM."""
    assert KVEvents(enable_kv_cache_events=True, publisher=publisher and EventPublisher(publisher)).enabled is enabled


def test_a_flag_replaces_the_block_of_the_file(tmp_path: Path) -> None:
    """And the file may have the flag's JSON in the place of the block, but not beside it."""
    file = tmp_path / "server.yaml"
    file.write_text(json.dumps({"model": {"name": "m"}, "kvEvents": {"enableKvCacheEvents": True, "hwm": 5}}))
    assert load(["--config", str(file)], {}).config.kv_events.hwm == 5
    assert load(["--config", str(file), "--kv-events-config", json.dumps(GUIDE)], {}).config.kv_events.hwm == 100_000
    file.write_text(json.dumps({"model": {"name": "m"}, "kv-events-config": json.dumps(GUIDE)}))
    assert load(["--config", str(file)], {}).config.kv_events.enabled


@pytest.mark.parametrize(("word", "numbers"), [("0", False), ("1", True)])
def test_the_form_of_hashes_is_vllms_variable(word: str, numbers: bool) -> None:
    """A flag wins over it."""
    assert events(VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=word).int_block_hashes is numbers
    assert events("--no-kv-events-int-block-hashes", VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=word).int_block_hashes is False


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{", "--kv-events-config: not JSON: "),
        ("[1]", "--kv-events-config: must be a JSON object, not '[1]'"),
        ({"enable_kv_cache_event": True}, "enableKvCacheEvent: unknown field; did you mean 'enableKvCacheEvents'?"),
        ({"endpoint": "5557"}, "endpoint: '5557' does not match the pattern"),
        ({"endpoint": "tcp://*:70000"}, "endpoint: 70000 is not a port"),
        ({"publisher": "kafka"}, "publisher: Input should be 'null' or 'zmq'"),
        ({"hwm": -1}, "hwm: Input should be greater than or equal to 0"),
        (GUIDE | {"replay_endpoint": "tcp://*:5557"}, "replayEndpoint: 5557 is already the port of endpoint"),
        (GUIDE | {"endpoint": "tcp://*:8000"}, "endpoint: 8000 is already listen.port"),
    ],
)
def test_what_is_wrong_is_told_under_the_flag(config: Any, complaint: str) -> None:
    """In one line, with the field."""
    (line,) = refused("--kv-events-config", config if isinstance(config, str) else json.dumps(config))
    assert line.startswith("--kv-events-config: ")
    assert complaint in line
