"""The store keeps the newest version seen, readers ask the API where it may be behind, and children wake servers."""

from __future__ import annotations

from typing import Any

import pytest

from ghostfleet_operator.plan.naming import SERVER_LABEL
from ghostfleet_operator.reconcile.api import (
    CLUSTER_PROFILE,
    CONFIG_MAP,
    DEPLOYMENT,
    POD,
    SERVER,
    Key,
    Kind,
    KubeApi,
    Object,
    Objects,
)
from ghostfleet_operator.reconcile.mapping import Mapper
from ghostfleet_operator.reconcile.store import Reader, Store


def make(kind: Kind, name: str, version: int = 1, server: str | None = None, **rest: Any) -> Object:
    labels = {SERVER_LABEL: server} if server else {}
    meta = {
        "namespace": "ns",
        "name": name,
        "uid": f"{kind.name}-{name}",
        "resourceVersion": str(version),
        "generation": rest.pop("generation", 1),
        "labels": labels,
        "managedFields": ["much"],
        **rest.pop("metadata", {}),
    }
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta, **rest}


class Woken:
    """Collects the keys that a mapper adds."""

    def __init__(self) -> None:
        self.store = Store()
        self.keys: list[str] = []
        self.mapper = Mapper(self.store, lambda key, _delay: self.keys.append(str(key)))

    def by(self, obj: Object, *, deleted: bool = False) -> list[str]:
        self.keys = []
        self.mapper.event(obj, deleted=deleted)
        return sorted(self.keys)


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store = Store()
    assert store.see(make(CONFIG_MAP, "a", version=10))
    assert not store.see(make(CONFIG_MAP, "a", version=9))
    assert not store.see(make(CONFIG_MAP, "a", version=10))
    assert store.get(CONFIG_MAP, "ns", "a")["metadata"]["resourceVersion"] == "10"  # type: ignore[index]  # it is there
    assert store.see(make(CONFIG_MAP, "a", version=3, metadata={"uid": "another"})), "another object of that name"


def test_field_ownership_is_not_kept() -> None:
    store = Store()
    store.see(make(CONFIG_MAP, "a"))
    found = store.get(CONFIG_MAP, "ns", "a")
    assert found is not None
    assert "managedFields" not in found["metadata"]


def test_a_late_deletion_of_an_earlier_object_does_not_remove_its_successor() -> None:
    store = Store()
    store.see(make(CONFIG_MAP, "a", metadata={"uid": "new"}))
    store.forget(CONFIG_MAP, "ns", "a", "old")
    assert store.get(CONFIG_MAP, "ns", "a") is not None
    store.forget(CONFIG_MAP, "ns", "a", "new")
    assert len(store) == 0


def test_objects_are_found_by_their_server() -> None:
    store = Store()
    for name, server in (("b", "one"), ("a", "one"), ("c", "two")):
        store.see(make(POD, name, server=server))
    store.see(make(DEPLOYMENT, "a", server="one"))
    assert [o["metadata"]["name"] for o in store.of_server(POD, "ns", "one")] == ["a", "b"]
    store.see(make(POD, "a", version=2, server="two"))
    assert [o["metadata"]["name"] for o in store.of_server(POD, "ns", "one")] == ["b"], (
        "a label that changed is followed"
    )
    assert store.of_server(POD, "other", "one") == []


def test_a_child_wakes_its_server_and_the_operators_own_write_nobody() -> None:
    woken = Woken()
    own = make(DEPLOYMENT, "s", version=5, server="s")
    woken.store.see(own)
    assert woken.by(own) == []
    assert woken.by(make(DEPLOYMENT, "s", version=6, server="s")) == ["SimulatedModelServer ns/s"]
    assert woken.by(make(DEPLOYMENT, "s", version=7, server="s"), deleted=True) == ["SimulatedModelServer ns/s"]


def pod(version: int, *, ready: bool, **rest: Any) -> Object:
    status = {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": str(ready)}], **rest}
    return make(POD, "s-1", version=version, server="s", status=status)


@pytest.mark.parametrize(
    ("then", "wakes"),
    [
        (pod(2, ready=True), True),
        (pod(2, ready=False, podIP="10.0.0.2"), True),
        (pod(2, ready=False, containerStatuses=[{"restartCount": 1}]), True),
        (pod(2, ready=False, qosClass="Burstable"), False),
    ],
    ids=["ready", "address", "restart", "anything else"],
)
def test_a_pod_wakes_its_server_when_it_matters(then: Object, wakes: bool) -> None:
    woken = Woken()
    assert woken.by(pod(1, ready=False)) == ["SimulatedModelServer ns/s"]
    assert bool(woken.by(then)) is wakes


class Api:
    """An API that has what it is given, and counts how often it is asked."""

    def __init__(self, *objects: Object) -> None:
        self.objects = objects
        self.asked: list[str] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        self.asked.append(name)
        return next((o for o in self._of(kind, namespace) if o["metadata"]["name"] == name), None)

    async def list(self, kind: Kind, namespace: str | None, labels: str = "") -> Objects:
        self.asked.append(labels)
        return self._of(kind, namespace)

    def _of(self, kind: Kind, namespace: str | None) -> Objects:
        return [o for o in self.objects if o["kind"] == kind.name and o["metadata"]["namespace"] == namespace]


def reader(api: Api, store: Store, *live: Kind) -> Reader:
    as_api: KubeApi = api  # type: ignore[assignment]  # a reader only reads
    return Reader(as_api, store, live=live)


async def test_a_reader_trusts_the_store_for_what_is_there_and_the_api_for_what_is_not() -> None:
    api, store = Api(make(CONFIG_MAP, "unseen")), Store()
    store.see(make(CONFIG_MAP, "seen"))
    found = reader(api, store)
    assert await found.get(CONFIG_MAP, "ns", "seen")
    assert api.asked == []
    assert await found.get(CONFIG_MAP, "ns", "unseen")
    assert await found.get(CONFIG_MAP, "ns", "nowhere") is None
    assert await found.get(CONFIG_MAP, "ns", "nowhere") is None
    assert api.asked == ["unseen", "nowhere"], "once per pass"


async def test_a_live_reader_mends_what_a_watch_missed() -> None:
    api, store = Api(make(POD, "new", server="s")), Store()
    store.see(make(POD, "ghost", server="s"))
    store.see(make(CONFIG_MAP, "ghost"))
    found = reader(api, store, POD, CONFIG_MAP)
    assert [o["metadata"]["name"] for o in await found.of_server(POD, "ns", "s")] == ["new"]
    assert await found.get(CONFIG_MAP, "ns", "ghost") is None
    assert store.get(CONFIG_MAP, "ns", "ghost") is None


def test_keys_read_as_people_write_them() -> None:
    assert str(Key(SERVER, "ns", "s")) == "SimulatedModelServer ns/s"
    assert str(Key(CLUSTER_PROFILE, "", "p")) == "ClusterLatencyProfile p"
