"""A census tells the mapper what watches lost, and nothing that they did not lose."""

from __future__ import annotations

from typing import Any, cast

from tests.operator.objects import raw_profile, raw_server

from ghostfleet_operator.plan.naming import SERVER_LABEL
from ghostfleet_operator.reconcile.api import CONFIG_MAP, PROFILE, SERVER, Key, Kind, KubeApi, Object, Objects
from ghostfleet_operator.reconcile.census import Census
from ghostfleet_operator.reconcile.mapping import Mapper
from ghostfleet_operator.reconcile.store import Store


class Api:
    """What there is, and how it was asked for."""

    def __init__(self) -> None:
        self.there: list[Object] = []
        self.asked: set[tuple[str, str | None, str]] = set()

    async def list(self, kind: Kind, namespace: str | None, labels: str = "") -> Objects:
        self.asked.add((kind.plural, namespace, labels))
        return [o for o in self.there if o["kind"] == kind.name and namespace in (None, o["metadata"]["namespace"])]


class World:
    """A census over a store, and the keys that it wakes."""

    def __init__(self, *namespaces: str) -> None:
        self.api, self.store = Api(), Store()
        self.woken: set[str] = set()
        self.mapper = Mapper(self.store, lambda key, _delay: self.woken.add(f"{key.kind.plural}/{key.name}"))
        self.census = Census(cast("KubeApi", self.api), self.mapper, (SERVER, PROFILE), namespaces)

    async def taken(self, *there: Object) -> set[str]:
        self.api.there = list(there)
        self.woken.clear()
        await self.census.take()
        return self.woken


def at(raw: Object, version: int) -> Object:
    meta = {"uid": f"{raw['kind']}-{raw['metadata']['name']}", "generation": version, "resourceVersion": str(version)}
    return raw | {"metadata": raw["metadata"] | meta}


def a_server(version: int = 1) -> Object:
    return at(raw_server("a", profileRef={"name": "p"}), version)


def child(version: int = 1) -> dict[str, Any]:
    meta = {"namespace": a_server()["metadata"]["namespace"], "name": "a-config", "labels": {SERVER_LABEL: "a"}}
    return at({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}, version)


async def test_what_is_there_is_found_once() -> None:
    world = World()
    assert await world.taken(a_server(), at(raw_profile("p"), 1)) == {"simulatedmodelservers/a", "latencyprofiles/p"}
    assert await world.taken(a_server(), at(raw_profile("p"), 1)) == set()


async def test_a_lost_change_is_found() -> None:
    world = World()
    await world.taken(a_server(), child())
    assert "simulatedmodelservers/a" in await world.taken(a_server(2), child())
    assert await world.taken(a_server(2), child(3)) == {"simulatedmodelservers/a"}


async def test_a_lost_deletion_is_found() -> None:
    world = World()
    await world.taken(a_server(), child(), at(raw_profile("p"), 1))
    assert await world.taken(a_server(), at(raw_profile("p"), 1)) == {"simulatedmodelservers/a"}
    assert await world.taken(a_server()) == {"simulatedmodelservers/a", "latencyprofiles/p"}
    assert await world.taken() == {"simulatedmodelservers/a", "latencyprofiles/p"}
    assert len(world.store) == 0


async def test_a_deletion_that_only_a_pass_noticed_is_told_to_whom_it_concerns() -> None:
    """The pass forgets the server; its profile must still hear of it."""
    world = World()
    await world.taken(a_server())
    world.store.forget(SERVER, a_server()["metadata"]["namespace"], "a")
    assert "latencyprofiles/p" in await world.taken()


async def test_what_was_seen_while_the_list_was_under_way_stays() -> None:
    world = World()
    await world.taken(child())
    key = Key(CONFIG_MAP, child()["metadata"]["namespace"], "a-config")
    believed = world.mapper.believed(CONFIG_MAP, None)
    world.mapper.event(child(2), deleted=False)
    world.mapper.gone(key, believed[key])
    assert world.store.get(CONFIG_MAP, key.namespace, key.name) is not None


async def test_children_are_asked_for_by_label_and_namespaces_one_by_one() -> None:
    world = World("one", "two")
    await world.taken()
    assert {("configmaps", "one", SERVER_LABEL), ("pods", "two", SERVER_LABEL)} <= world.api.asked
    assert ("simulatedmodelservers", "one", "") in world.api.asked
    assert not {ask for ask in world.api.asked if ask[1] is None}
