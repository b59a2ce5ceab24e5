"""Data-parallel ranks of a fleet: a port each or one for all, and what schedulers find of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import yaml
from tests.local.conftest import EXAMPLES, FleetProcess, server, until

MakeFleet = Callable[[str], FleetProcess]


def endpoints(fleet: FleetProcess) -> dict[str, tuple[str, str]]:
    """Address and port by name, as the EPP reads them from the fleet's file."""
    found = yaml.safe_load((fleet.state / "endpoints.yaml").read_text())["endpoints"]
    return {entry["name"]: (entry["address"], entry["port"]) for entry in found}


def admin(fleet: FleetProcess, replica: dict[str, Any], path: str) -> Any:
    token = (fleet.state / "admin-token").read_text().strip()
    return httpx.get(f"{replica['adminUrl']}{path}", headers={"authorization": f"Bearer {token}"}, timeout=30).json()


def ask(address: str, port: str | int, **headers: str) -> None:
    body = {"prompt": "Hello", "max_tokens": 2}
    answer = httpx.post(f"http://{address}:{port}/v1/completions", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text


def test_the_example_serves_ranks_in_both_ways(make_fleet: MakeFleet) -> None:
    """A rank with a port is an endpoint; ranks behind one port are one, and a request may name its rank."""
    fleet = make_fleet((EXAMPLES / "ranks.yaml").read_text())
    fleet.start()
    found = endpoints(fleet)
    assert sorted(found) == ["balanced-0", "ranked-0-rank-0", "ranked-0-rank-1"]
    (address, first), (other, second) = found["ranked-0-rank-0"], found["ranked-0-rank-1"]
    assert (other, int(second)) == (address, int(first) + 1)
    ask(*found["ranked-0-rank-1"])
    ask(*found["balanced-0"], **{"X-data-parallel-rank": "3"})
    replicas = fleet.replicas()
    told = {name: admin(fleet, replica, "/admin/requests")["requests"] for name, replica in replicas.items()}
    assert {name: [request["rank"] for request in requests] for name, requests in told.items()} == {
        "ranked-0": [1],
        "balanced-0": [3],
    }
    state = admin(fleet, replicas["ranked-0"], "/admin/state")
    ports = [int(rank["kvEvents"]["endpoint"].rpartition(":")[2]) for rank in state["ranks"]]
    assert ports[1] == ports[0] + 1
    rows = {row["replica"]: row["ranks"] for row in fleet.status()["rows"]}
    assert [rank["url"] for rank in rows["ranked-0"]] == [f"http://{address}:{port}" for port in (first, second)]
    assert [rank["kvEvents"] for rank in rows["ranked-0"]] == [rank["kvEvents"]["endpoint"] for rank in state["ranks"]]
    assert [(rank["rank"], rank["url"]) for rank in rows["balanced-0"]] == [
        (number, "http://" + ":".join(found["balanced-0"])) for number in range(len(rows["balanced-0"]))
    ]


def test_another_number_of_ranks_restarts_the_replica(make_fleet: MakeFleet) -> None:
    """With the new number it has as many ports, and as many endpoints; requests are spread over what there is."""
    fleet = make_fleet(server("ranked", dataParallelSize=2, dataParallelPortPerRank=True))
    fleet.start()
    assert sorted(endpoints(fleet)) == ["ranked-0-rank-0", "ranked-0-rank-1"]
    before = fleet.replicas()["ranked-0"]["pid"]
    fleet.edit('"dataParallelSize": 2', '"dataParallelSize": 3')
    until(lambda: len(endpoints(fleet)) == 3, "there is an endpoint for each rank")
    replica = fleet.replicas()["ranked-0"]
    assert replica["pid"] != before
    for address, port in endpoints(fleet).values():
        ask(address, port)
    ranks = Counter(request["rank"] for request in admin(fleet, replica, "/admin/requests")["requests"])
    assert ranks == {0: 1, 1: 1, 2: 1}
