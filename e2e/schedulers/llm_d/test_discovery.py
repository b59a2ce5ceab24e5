"""File discovery: the picker's endpoints are the replicas of the fleet that should get requests, at any moment."""

from __future__ import annotations

from collections.abc import Iterable

from e2e.conftest import until
from e2e.schedulers.busy import cut_short
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import ASK, LONG, endpoint, endpoints, objects
from e2e.schedulers.llm_d.picker import LlmdPicker
from ghostfleet_operator.testing.plugin import StartFleet


def until_picked(picker: LlmdPicker, wanted: Iterable[str]) -> None:
    """Wait until these are picked, by chance, and no others: of five each is left out of 90 once in 10^8 times."""
    found = set(wanted)
    until(f"{sorted(found)} are picked", lambda: set(picker.spread(ASK, 90)) == found)
    until("as many are known", lambda: picker.value("ready_endpoints") == len(found))


def test_endpoints_follow_the_fleet(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Three replicas, five, two: decisions are within those that there are."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 3}))
    picker = start(fleet.endpoints_file, "queue-scorer")
    for count in (3, 5, 2):
        fleet.apply(objects(alpha={"replicas": count}))
        assert len(fleet.urls) == count
        until_picked(picker, endpoints(fleet))


def test_a_server_that_is_not_ready_is_left_out_until_it_is(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """By an injected failure, live; it serves on, and is the same process afterwards."""
    unready = {"failures": [{"type": "Unready"}]}
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 2}, beta={}))
    before = fleet.replicas
    picker = start(fleet.endpoints_file, "queue-scorer")
    until_picked(picker, endpoints(fleet))
    fleet.apply(objects(alpha={"replicas": 2}, beta=unready))
    until_picked(picker, endpoints(fleet) - {endpoint(fleet, "beta-0")})
    fleet.apply(objects(alpha={"replicas": 2}, beta={}))
    until_picked(picker, endpoints(fleet))
    assert fleet.replicas == before


def test_a_server_that_dies_in_a_stream_leaves_no_request_behind(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """The stream breaks off; when the proxy gives up nothing counts as running; the server is an endpoint again."""
    fleet = ghostfleet_fleet(objects(alpha={"replicas": 2}))
    picker = start(fleet.endpoints_file, "queue-scorer")
    decision = picker.ask(LONG | {"stream": True}, hold="broken")
    (name,) = [name for name in fleet.urls if endpoint(fleet, name) == decision.endpoint]
    until("it counts as running", lambda: picker.value("request_running") == 1)
    rest = cut_short(fleet.urls[name], LONG | {"stream": True}, fleet.replicas[name].kill)
    assert b"[DONE]" not in rest
    picker.drop("broken")
    until("nothing runs any more", lambda: picker.value("request_running") == 0)
    until("it was started again", lambda: fleet.replicas[name].starts == 2)
    fleet.until_ready()
    until_picked(picker, endpoints(fleet))
