"""Which keys a watch event wakes, whatever passes have read before it came."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator.objects import raw_cluster_profile, raw_profile, raw_server

from ghostfleet_operator.reconcile.api import OWN, PROFILE, SERVER, Key, Kind
from ghostfleet_operator.reconcile.mapping import Mapper
from ghostfleet_operator.reconcile.store import Store


def at(raw: dict[str, Any], version: int, generation: int = 1) -> dict[str, Any]:
    """An object as the API server gives it at a resource version."""
    return raw | {"metadata": raw["metadata"] | {"uid": "u", "resourceVersion": str(version), "generation": generation}}


def user(name: str, version: int = 1, generation: int = 1) -> dict[str, Any]:
    return at(raw_server(name, profileRef={"name": "shared"}), version, generation)


class Woken:
    """A mapper over a store, and the keys it woke since it was last asked."""

    def __init__(self, *own: Kind) -> None:
        self.store = Store()
        self._keys: set[Key] = set()
        self.mapper = Mapper(self.store, lambda key, _delay: self._keys.add(key), own or OWN)

    def by(self, obj: dict[str, Any], *, deleted: bool = False) -> set[str]:
        self._keys.clear()
        self.mapper.event(obj, deleted=deleted)
        return {f"{key.kind.plural}/{key.name}" for key in self._keys}


@pytest.fixture
def woken() -> Woken:
    return Woken()


def test_a_server_wakes_itself_and_its_profile(woken: Woken) -> None:
    assert woken.by(user("a")) == {"simulatedmodelservers/a", "latencyprofiles/shared"}


def test_a_profile_wakes_itself_and_its_users(woken: Woken) -> None:
    woken.by(user("a"))
    woken.by(user("b"))
    assert woken.by(at(raw_profile("shared"), 5)) == {
        "latencyprofiles/shared",
        "simulatedmodelservers/a",
        "simulatedmodelservers/b",
    }


def test_a_change_of_status_alone_wakes_nobody(woken: Woken) -> None:
    woken.by(user("a"))
    assert woken.by(user("a", version=2) | {"status": {"replicas": 1}}) == set()


def test_a_new_server_that_the_pass_over_its_profile_has_read_before_is_woken_all_the_same(woken: Woken) -> None:
    woken.store.see(user("a"))
    assert "simulatedmodelservers/a" in woken.by(user("a"))


def test_a_new_generation_that_another_pass_has_read_before_still_wakes_all_users(woken: Woken) -> None:
    """One server's pass reads the profile live; the others must hear of it by its event."""
    for name in "ab":
        woken.by(user(name))
    woken.by(at(raw_profile("shared"), 5))
    changed = at(raw_profile("shared", timeToFirstToken="1s"), 6, generation=2)
    woken.store.see(changed)
    assert {"simulatedmodelservers/a", "simulatedmodelservers/b"} <= woken.by(changed)


def test_a_deletion_that_another_pass_has_noticed_before_still_wakes_all_users(woken: Woken) -> None:
    woken.by(user("a"))
    profile = at(raw_profile("shared"), 5)
    woken.by(profile)
    woken.store.forget(PROFILE, "lab", "shared")
    assert woken.by(profile, deleted=True) == {"latencyprofiles/shared", "simulatedmodelservers/a"}


def test_a_server_that_changes_its_profile_wakes_both(woken: Woken) -> None:
    woken.by(user("a"))
    moved = at(raw_server("a", profileRef={"name": "other"}), 2, generation=2)
    assert woken.by(moved) == {"simulatedmodelservers/a", "latencyprofiles/shared", "latencyprofiles/other"}


def test_a_profile_of_the_cluster_wakes_its_users_in_every_namespace_and_no_other_of_its_name(woken: Woken) -> None:
    reference = {"kind": "ClusterLatencyProfile", "name": "shared"}
    for name in "ab":
        raw = at(raw_server(name, profileRef=reference), 1)
        raw["metadata"]["namespace"] = f"team-{name}"
        assert woken.by(raw) == {f"simulatedmodelservers/{name}", "clusterlatencyprofiles/shared"}
    woken.by(user("c"))
    assert woken.by(at(raw_cluster_profile("shared"), 5)) == {
        "clusterlatencyprofiles/shared",
        "simulatedmodelservers/a",
        "simulatedmodelservers/b",
    }
    assert woken.by(at(raw_profile("shared"), 5)) == {"latencyprofiles/shared", "simulatedmodelservers/c"}


def test_a_kind_that_is_not_in_use_is_never_woken() -> None:
    woken = Woken(SERVER, PROFILE)
    reference = {"kind": "ClusterLatencyProfile", "name": "shared"}
    assert woken.by(at(raw_server("a", profileRef=reference), 1)) == {"simulatedmodelservers/a"}
