"""KV events: the picker knows which server has a prompt that others have sent to it, by the server's events alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.apiserver import control_plane

from e2e.conftest import until
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import MODEL, by_replica, endpoint, objects, send
from e2e.schedulers.llm_d.picker import LlmdPicker, Plugin
from ghostfleet_operator.testing import Fleet
from ghostfleet_operator.testing.plugin import StartFleet

BLOCK = 16
TOKENS = [1000 + position * 7 for position in range(4 * BLOCK)]
"""A prompt of four blocks. The picker takes tokens in a request as they are, so none of its tokenizers is needed."""
TOPIC = "kv@$(POD_IP):$(PORT)@$(MODEL)"
BOUND: Mapping[str, Any] = {"enableKvCacheEvents": True, "topic": TOPIC}
ENCODINGS: Mapping[str, Mapping[str, Any]] = {
    "arrays, hashes as numbers": {"engine": {"version": "0.23"}},
    "arrays, hashes as bytes": {"engine": {"version": "0.23"}, "kvEvents": {**BOUND, "intBlockHashes": False}},
    "maps, hashes as numbers": {"engine": {"version": "0.33"}},
    "maps, hashes as bytes": {"engine": {"version": "0.33"}, "kvEvents": {**BOUND, "intBlockHashes": False}},
    "SGLang's": {"engine": {"dialect": "SGLang"}},
}


def plugins(**events: Any) -> tuple[Plugin, Plugin]:
    """Scores by KV events, which come to the picker as `events` say."""
    producer = "precise-prefix-cache-producer"
    parameters = {"tokenProcessorConfig": {"blockSizeTokens": BLOCK}, "kvEventsConfig": events}
    return (
        {"type": producer, "parameters": parameters},
        {"type": "prefix-cache-scorer", "parameters": {"prefixMatchInfoProducerName": producer}},
    )


def dialled(**more: Any) -> tuple[Plugin, Plugin]:
    """The picker connects to each endpoint, to its port 5557."""
    return plugins(discoverPods=True, podDiscoveryConfig={"socketPort": 5557}, **more)


def prompt(tokens: list[int]) -> dict[str, Any]:
    return {"model": MODEL, "prompt": tokens, "max_tokens": 1}


def scored(fleet: Fleet, picker: LlmdPicker, tokens: list[int]) -> dict[str, float]:
    return by_replica(fleet, picker.scores(prompt(tokens)))


def until_known(fleet: Fleet, picker: LlmdPicker, replica: str, tokens: list[int]) -> None:
    """Wait until the picker believes a server to hold a prompt that is sent to it, and all others to hold nothing."""
    wanted = {name: float(name == replica) for name in fleet.urls}

    def heard() -> bool:
        # A subscriber that was not yet there when the blocks were stored hears of the next prompt.
        send(endpoint(fleet, replica), prompt(tokens))
        return scored(fleet, picker, tokens) == wanted

    until(f"the picker knows that {replica} has it", heard)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_server_that_has_the_prompt_is_picked(ghostfleet_fleet: StartFleet, start: Start, encoding: str) -> None:
    """Whatever the encoding, with the same scores: the share of the prompt's blocks that a server has."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3, "kvEvents": BOUND, **ENCODINGS[encoding]}))
    engine = {"engineType": "sglang"} if encoding == "SGLang's" else {}
    picker = start(fleet.endpoints_file, *dialled(**engine))
    until_known(fleet, picker, "alpha-2", TOKENS)
    assert picker.spread(prompt(TOKENS), 20) == {endpoint(fleet, "alpha-2"): 20}
    twice_as_long = TOKENS + [3 + position for position in range(4 * BLOCK)]
    assert scored(fleet, picker, twice_as_long) == {"alpha-0": 0, "alpha-1": 0, "alpha-2": 0.5}
    other = [token + 1 for token in TOKENS]
    until_known(fleet, picker, "alpha-0", other)
    assert scored(fleet, picker, TOKENS) == {"alpha-0": 0, "alpha-1": 0, "alpha-2": 1}


def test_what_was_evicted_is_not_looked_for(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """A cache of 31 blocks takes in another prompt of 30: the first block alone is left of the prompt before."""
    small = {"model": {"name": MODEL, "maxModelLen": 31 * BLOCK}, "kvCache": {"blocks": 32}}
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 2, "kvEvents": BOUND, **small}))
    picker = start(fleet.endpoints_file, *dialled())
    tokens = [
        *TOKENS,
        1,
        2,
        3,
    ]  # with an end that is no block, or the last one would be computed and stored anew each time
    until_known(fleet, picker, "alpha-1", tokens)
    send(endpoint(fleet, "alpha-1"), prompt([2 + position for position in range(30 * BLOCK)]))
    until("three of four are forgotten", lambda: scored(fleet, picker, tokens) == {"alpha-0": 0, "alpha-1": 0.25})


def test_servers_that_connect_to_the_picker_are_told_apart_by_their_topic(
    ghostfleet_fleet: StartFleet, start: Start
) -> None:
    """One socket for all of them. A topic without the port is nobody's: what that server has is never found there."""
    (port,) = control_plane.free_ports(1)
    to_picker = {"enableKvCacheEvents": True, "endpoint": f"tcp://127.0.0.1:{port}", "topic": TOPIC}
    portless = to_picker | {"topic": "kv@$(POD_IP)@$(MODEL)"}
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 2, "kvEvents": to_picker}, portless={"kvEvents": portless}))
    picker = start(fleet.endpoints_file, *plugins(discoverPods=False, zmqEndpoint=f"tcp://127.0.0.1:{port}"))
    until_known(fleet, picker, "alpha-1", TOKENS)
    for number in range(1, 6):
        tokens = [token + number for token in TOKENS]
        # First there, so that its event is on the way for longer than the one that arrives.
        send(endpoint(fleet, "portless-0"), prompt(tokens))
        until_known(fleet, picker, "alpha-0", tokens)
    assert picker.spread(prompt(tokens), 20) == {endpoint(fleet, "alpha-0"): 20}
    assert scored(fleet, picker, TOKENS)["alpha-1"] == 1
