"""Drift is found in the fields that are wanted and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ghostfleet_operator.reconcile.compare import APPLIED_ANNOTATION, differences, mark_of, marked, projected

LEAVES = st.one_of(st.integers(0, 5), st.text("ab", max_size=2), st.booleans())
KEYS = st.sampled_from(["spec", "data", "labels", "x", "y"])


def keyed(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A list of objects with distinct names, as containers and volumes are."""
    return st.dictionaries(st.sampled_from("pqr"), st.dictionaries(KEYS, children, max_size=2), max_size=3).map(
        lambda items: [{"name": name, **rest} for name, rest in items.items()]
    )


OBJECTS = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(st.dictionaries(KEYS, inner, max_size=3), st.lists(LEAVES, max_size=3), keyed(inner)),
        max_leaves=12,
    ),
    max_size=4,
)


def decorated(tree: Any, draw: Any) -> Any:
    """What an API server and its users make of an object: more fields, more list elements, another order of them."""
    if isinstance(tree, dict):
        grown = {key: decorated(value, draw) for key, value in tree.items()}
        return {**grown, "added": draw(LEAVES)} if draw(st.booleans()) else grown
    if isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree):
        grown_list = [decorated(item, draw) for item in tree]
        if draw(st.booleans()):
            grown_list.append({"name": "side-car", "added": 1})
        return draw(st.permutations(grown_list))
    return copy.deepcopy(tree)


@given(wanted=OBJECTS, data=st.data())
def test_what_others_add_is_no_drift(wanted: dict[str, Any], data: st.DataObject) -> None:
    live = decorated(wanted, data.draw)
    assert projected(live, wanted) == wanted
    assert differences(projected(live, wanted), wanted) == []


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    below = [found for key, value in items for found in leaves(value, (*path, key))]
    return below if isinstance(tree, (dict, list)) else [path]


@given(wanted=OBJECTS, data=st.data())
def test_a_changed_field_is_found_wherever_it_is(wanted: dict[str, Any], data: st.DataObject) -> None:
    paths = [path for path in leaves(wanted) if path[-1] != "name"]
    if not paths:
        return
    live = copy.deepcopy(wanted)
    target: Any = live
    path = data.draw(st.sampled_from(paths))
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = "changed by hand"
    found = projected(live, wanted)
    assert found != wanted
    assert differences(found, wanted)


def test_list_elements_are_told_apart_as_server_side_apply_does() -> None:
    wanted = {"ports": [{"name": "http", "containerPort": 8000}], "mounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    live = {
        "ports": [{"name": "admin", "containerPort": 9101}, {"name": "http", "containerPort": 8000, "protocol": "TCP"}],
        "mounts": [{"name": "tmp", "mountPath": "/other"}, {"name": "tmp", "mountPath": "/tmp", "readOnly": False}],
    }
    assert projected(live, wanted) == wanted
    hard, soft = ({"topologyKey": "zone", "whenUnsatisfiable": word} for word in ("DoNotSchedule", "ScheduleAnyway"))
    assert projected([hard | {"maxSkew": 1}, soft | {"maxSkew": 2}], [soft | {"maxSkew": 2}]) == [soft | {"maxSkew": 2}]


def test_a_difference_is_named_as_a_person_would() -> None:
    wanted = {"spec": {"replicas": 2, "containers": [{"name": "server", "image": "a"}]}}
    live = {"spec": {"replicas": 5, "containers": [{"name": "server", "image": "b"}]}}
    assert differences(projected(live, wanted), wanted) == ["spec.replicas", "spec.containers[server].image"]


def test_an_object_carries_the_hash_of_what_was_wanted() -> None:
    wanted = {"metadata": {"name": "x", "annotations": {"a": "b"}}, "data": {"k": "v"}}
    once = marked(wanted)
    assert once["metadata"]["annotations"]["a"] == "b"
    assert mark_of(once) == mark_of(marked(wanted))
    assert mark_of(marked({**wanted, "data": {}})) != mark_of(once), "a field that is left out changes the hash"
    assert APPLIED_ANNOTATION not in wanted["metadata"]["annotations"], "the input stays as it was"


def test_a_key_added_to_a_selector_is_drift() -> None:
    """Server-side apply replaces a selector whole, and with one more key a Service selects no pod."""
    wanted = {"spec": {"selector": {"app": "a"}, "ports": []}}
    live = {"spec": {"selector": {"app": "a", "more": "b"}, "ports": [], "clusterIP": "10.0.0.1"}}
    found = projected(live, wanted)
    assert differences(found, wanted) == ["spec.selector"]
