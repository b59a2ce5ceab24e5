"""LoRA adapters of a custom resource: edited, they come and go on every replica without a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from .conftest import FleetProcess, server, until

MakeFleet = Callable[[str], FleetProcess]


def adapters(replica: dict[str, Any]) -> list[str]:
    """What the model list has beside the base model."""
    cards = httpx.get(f"{replica['url']}/v1/models").json()["data"]
    return [card["id"] for card in cards if card["parent"] is not None]


def test_an_edited_list_of_adapters_is_served_by_every_replica(make_fleet: MakeFleet) -> None:
    """A new one answers, one that was taken away is unknown, and no process has restarted."""
    fleet = make_fleet(server("one", replicas=2, lora={"maxLoras": 2, "adapters": [{"name": "sql"}]}))
    fleet.start()
    before = fleet.replicas()
    assert [adapters(replica) for replica in before.values()] == [["sql"], ["sql"]]
    fleet.edit('{"name": "sql"}', '{"name": "law", "path": "/law"}')
    until(lambda: fleet.settled(revision=2), "both replicas run the new document")
    after = fleet.replicas()
    assert {name: replica["pid"] for name, replica in after.items()} == {
        name: replica["pid"] for name, replica in before.items()
    }
    for replica in after.values():
        assert adapters(replica) == ["law"]
        answers = {
            model: httpx.post(f"{replica['url']}/v1/completions", json={"model": model, "prompt": "a", "max_tokens": 1})
            for model in ("law", "sql")
        }
        assert answers["law"].json()["model"] == "law"
        assert answers["sql"].status_code == 404


def test_an_adapter_with_the_name_of_the_model_is_told(make_fleet: MakeFleet) -> None:
    """The edit is refused with the field's path, and what runs goes on."""
    fleet = make_fleet(server("one", lora={"adapters": [{"name": "sql"}]}))
    fleet.start()
    fleet.edit('{"name": "sql"}', '{"name": "one"}')
    fleet.until_said(r"lora\.adapters\[0\]\.name: 'one' is a served name of the base model")
    assert adapters(fleet.replicas()["one-0"]) == ["sql"]
