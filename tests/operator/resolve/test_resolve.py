"""A server and the profiles around it give one configuration, or the reason why not."""

from __future__ import annotations

import pytest
from tests.operator.objects import raw_profile, resolved, server

from ghostfleet_operator.kinds import ProfileResource, parse_profile
from ghostfleet_operator.resolve import ADMIN_PORT, PORT, ProfileSource, Reason, Unresolved, resolve
from ghostfleet_simulator.problems import InvalidInput, Problem


def test_an_inline_profile_needs_no_lookup() -> None:
    def never(kind: str, name: str) -> None:
        raise AssertionError(f"looked up {kind} {name}")

    found = resolve(server(), never)
    assert found.config.profile.simple.time_to_first_token.ns == 200_000_000
    assert found.source == ProfileSource("Inline", "alpha", 3)


def test_a_referenced_profile_is_looked_up_by_kind_and_name() -> None:
    asked = []

    def find(kind: str, name: str) -> ProfileResource:
        asked.append((kind, name))
        return parse_profile(raw_profile(name, generation=9, timeToFirstToken="50ms"))

    found = resolve(server(profileRef={"name": "mid-size"}), find)
    assert asked == [("LatencyProfile", "mid-size")]
    assert found.config.profile.simple.time_to_first_token.ns == 50_000_000
    assert found.source == ProfileSource("LatencyProfile", "mid-size", 9)


def test_every_block_of_the_server_reaches_the_configuration() -> None:
    config = resolved(
        model={"name": "m", "servedNames": ["x"], "maxModelLen": 4096},
        scheduling={"maxNumSeqs": 3},
        kvCache={"blockSize": 32, "blocks": 500},
        answers={"mode": "Echo"},
        failures=[{"type": "RateLimit", "probability": "0.5"}],
        seed=11,
    ).config
    assert config.model.aliases == ("x",)
    assert (config.scheduling.max_num_seqs, config.kv_cache.block_size, config.seed) == (3, 32, 11)
    assert (config.answers.mode.value, config.failures[0].type.value) == ("Echo", "RateLimit")


def test_a_configuration_listens_as_a_pod_does() -> None:
    listen = resolved().config.listen
    assert (listen.host, listen.port, listen.admin_port) == ("", PORT, ADMIN_PORT) == ("", 8000, 9101)


def test_a_profile_that_is_not_there_is_named_with_its_place() -> None:
    with pytest.raises(Unresolved) as caught:
        resolve(server(profileRef={"name": "gone"}), lambda _kind, _name: None)
    assert caught.value.reason is Reason.NOT_FOUND
    assert caught.value.message == "there is no LatencyProfile 'gone' in namespace 'lab'"
    reference = {"kind": "ClusterLatencyProfile", "name": "gone"}
    with pytest.raises(Unresolved, match=r"^there is no ClusterLatencyProfile 'gone'$"):
        resolve(server(profileRef=reference), lambda _kind, _name: None)


def test_a_profile_that_is_wrong_tells_what_is_wrong_with_it() -> None:
    wrong = InvalidInput([Problem("spec.simple.tick", "too small")])
    with pytest.raises(Unresolved) as caught:
        resolve(server(profileRef={"name": "bad"}), lambda _kind, _name: wrong)
    assert caught.value.reason is Reason.INVALID
    assert caught.value.message == "LatencyProfile 'bad' is invalid: spec.simple.tick: too small"


def test_a_profile_that_is_too_fast_for_the_clock_is_told_before_any_pod_has_it() -> None:
    """No pod would start with it."""
    with pytest.raises(Unresolved) as caught:
        resolved(clock={"compression": 50}, profile={"simple": {"interTokenLatency": "20ms"}})
    assert caught.value.reason is Reason.INVALID
    assert "clock.compression: 50 leaves 400us between two tokens" in caught.value.message


@pytest.mark.parametrize(
    ("events", "field"),
    [({"endpoint": "tcp://*:8000"}, "endpoint"), ({"replayEndpoint": f"tcp://*:{ADMIN_PORT}"}, "replayEndpoint")],
)
def test_kv_events_want_a_port_that_a_pod_has_to_give(events: dict[str, str], field: str) -> None:
    """Those of the API and of the admin API are taken in every pod."""
    with pytest.raises(Unresolved, match=r"(8000|9101) is already listen\.(port|adminPort)") as caught:
        resolved(kvEvents={"enableKvCacheEvents": True} | events)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID, f"spec.kvEvents.{field}")
    assert resolved(kvEvents=events).config.kv_events.enabled is False


def test_the_ports_of_ranks_must_not_meet() -> None:
    """Rank 1 publishes on the port behind rank 0's, where something else may be bound."""
    events = {"enableKvCacheEvents": True, "replayEndpoint": "tcp://*:5558"}
    assert resolved(kvEvents=events).config.ranks == range(1)
    with pytest.raises(Unresolved, match=r"5558 is already kvEvents\.endpoint of rank 1") as caught:
        resolved(kvEvents=events, dataParallelSize=2)
    assert caught.value.field == "spec.kvEvents.replayEndpoint"
    above = {"enableKvCacheEvents": True, "endpoint": "tcp://*:7998"}
    with pytest.raises(Unresolved, match=r"8000 is already listen\.port"):
        resolved(kvEvents=above, dataParallelSize=3)
