"""Readiness on a laptop: the endpoints file has the replicas that a readiness probe would find ready."""

from __future__ import annotations

import json
from collections.abc import Iterable

import httpx
import pytest
from tests.local.conftest import server, until

from ghostfleet_operator.testing import Fleet
from ghostfleet_operator.testing.plugin import StartFleet


def fleet_with(*failures: dict[str, str], replicas: int = 2) -> str:
    return server("one", replicas=replicas, failures=list(failures)) + "\n"


def listed(fleet: Fleet) -> set[str]:
    """The replicas in the endpoints file."""
    return {endpoint["name"] for endpoint in json.loads(fleet.endpoints_file.read_text())["endpoints"]}


def ready(fleet: Fleet) -> set[str]:
    """The replicas that the fleet says are ready."""
    return {name for name, replica in fleet.replicas.items() if replica.ready}


def until_listed(fleet: Fleet, names: Iterable[str]) -> None:
    wanted = set(names)
    until(lambda: listed(fleet) == ready(fleet) == wanted, f"{wanted} are listed")


def admin(fleet: Fleet, name: str, method: str, path: str, **fields: object) -> None:
    """A request to the admin API of a replica."""
    token = (fleet.endpoints_file.parent / "admin-token").read_text().strip()
    url = f"{fleet.replicas[name].admin_url}/admin/{path}"
    headers = {"authorization": f"Bearer {token}"}
    httpx.request(method, url, headers=headers, json=fields, timeout=60).raise_for_status()


@pytest.mark.parametrize("room", [1, 2], ids=["alone", "in one process"])
def test_an_unready_server_leaves_the_list_and_comes_back_without_a_restart(
    ghostfleet_fleet: StartFleet, room: int
) -> None:
    """It goes on serving meanwhile, and takes over the document that makes it ready again."""
    fleet = ghostfleet_fleet(fleet_with(), servers_per_process=room)
    before = fleet.replicas
    until_listed(fleet, before)
    fleet.apply(fleet_with({"type": "Unready"}))
    until_listed(fleet, ())
    body = {"model": "one", "prompt": "Once", "max_tokens": 2}
    assert httpx.post(f"{fleet.urls['one-1']}/v1/completions", json=body, timeout=60).status_code == 200
    fleet.apply(fleet_with())
    until_listed(fleet, before)
    assert fleet.replicas == before


def test_a_server_that_flaps_comes_and_goes(ghostfleet_fleet: StartFleet) -> None:
    fleet = ghostfleet_fleet(fleet_with({"type": "Unready", "period": "2s", "duty": "50%"}, replicas=1))
    for _ in range(2):
        until_listed(fleet, ["one-0"])
        until_listed(fleet, ())


def test_a_fleet_starts_though_a_server_of_it_is_unready(ghostfleet_fleet: StartFleet) -> None:
    fleet = ghostfleet_fleet(fleet_with({"type": "Unready"}, replicas=1))
    until_listed(fleet, ())
    fleet.apply(fleet_with(replicas=1))
    until_listed(fleet, ["one-0"])


def test_a_server_that_was_told_to_drain_leaves_the_list(ghostfleet_fleet: StartFleet) -> None:
    """It alone, of the two that share a process."""
    fleet = ghostfleet_fleet(fleet_with(), servers_per_process=2)
    until_listed(fleet, ["one-0", "one-1"])
    admin(fleet, "one-1", "POST", "drain")
    until_listed(fleet, ["one-0"])
