"""What files of objects are taken for, and how each mistake in them is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.local.conftest import server

from ghostfleet_operator.local import applied
from ghostfleet_operator.local.objects import Key, read
from ghostfleet_simulator.problems import InvalidInput

PROFILE = """\
apiVersion: ghostfleet.dev/v1alpha1
kind: LatencyProfile
metadata: {name: fast}
spec: {simple: {timeToFirstToken: 5ms}}
"""


CLUSTER_PROFILE = PROFILE.replace("LatencyProfile", "ClusterLatencyProfile")


def user(server_name: str, **reference: str) -> str:
    spec = {"model": {"name": server_name}, "profileRef": reference}
    return json.dumps(
        {
            "apiVersion": "ghostfleet.dev/v1alpha1",
            "kind": "SimulatedModelServer",
            "metadata": {"name": server_name},
            "spec": spec,
        }
    )


def problems(path: Path) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        read([path]).resolved()
    return [str(problem).removeprefix(f"{path}") for problem in caught.value.problems]


def test_objects_come_from_files_folders_and_lists(tmp_path: Path) -> None:
    """Several documents, JSON, the files of a folder and a List are all the same."""
    (tmp_path / "a.yaml").write_text(PROFILE + "---\n---\n" + user("one", name="fast"))
    (tmp_path / "b.json").write_text(json.dumps({"kind": "List", "items": [json.loads(server("two"))]}))
    (tmp_path / "notes.txt").write_text("not: [yaml")
    found = read([tmp_path]).resolved()
    assert [r.server.metadata.name for r in found] == ["one", "two"]
    assert str(found[0].config.profile.simple.time_to_first_token) == "5ms"
    assert found[0].source.name == "fast"


def test_a_profile_is_found_in_its_own_namespace_only(tmp_path: Path) -> None:
    """As in a cluster."""
    file = tmp_path / "a.yaml"
    file.write_text(
        PROFILE.replace("{name: fast}", "{name: fast, namespace: other}") + "---\n" + user("one", name="fast")
    )
    (line,) = problems(file)
    assert line.startswith(" (document 2): SimulatedModelServer one: spec.profileRef.name: there is no LatencyProfile")
    assert line.endswith("'fast' in namespace 'default'")


def test_a_profile_of_the_cluster_is_found_from_every_namespace(tmp_path: Path) -> None:
    """And beside a LatencyProfile of the same name it is another object."""
    file = tmp_path / "a.yaml"
    reference = {"kind": "ClusterLatencyProfile", "name": "fast"}
    apart = user("two", **reference).replace('"name": "two"}, "spec"', '"name": "two", "namespace": "lab"}, "spec"')
    own = PROFILE.replace("5ms", "7ms")
    file.write_text("---\n".join([CLUSTER_PROFILE, own, user("one", **reference) + "\n", apart + "\n"]))
    found = read([file]).resolved()
    assert [(r.server.metadata.namespace, r.source.kind) for r in found] == [
        ("default", "ClusterLatencyProfile"),
        ("lab", "ClusterLatencyProfile"),
    ]
    assert {str(r.config.profile.simple.time_to_first_token) for r in found} == {"5ms"}


def test_an_applied_profile_of_the_cluster_counts_over_the_files(tmp_path: Path) -> None:
    file, changed, kept = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "applied.json"
    file.write_text(CLUSTER_PROFILE + "---\n" + user("one", kind="ClusterLatencyProfile", name="fast"))
    changed.write_text(CLUSTER_PROFILE.replace("5ms", "9ms"))
    applied.put(kept, read([changed]), read([file]))
    (found,) = applied.over(kept, read([file])).resolved()
    assert str(found.config.profile.simple.time_to_first_token) == "9ms"


def test_objects_of_other_groups_are_skipped_with_a_word(tmp_path: Path) -> None:
    """A file for a cluster may hold more than a laptop needs."""
    file = tmp_path / "a.yaml"
    file.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\n" + server("one"))
    objects = read([file])
    assert objects.skipped == [f"{file} (document 1): Namespace x is not for a laptop fleet; it is skipped"]
    assert len(objects.resolved()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (server("one", replcas=2), ": SimulatedModelServer one: spec.replcas: unknown field; did you mean 'replicas'?"),
        (
            server("one", replicas=-1),
            ": SimulatedModelServer one: spec.replicas: Input should be greater than or equal to 0",
        ),
        (
            server("one", profile={"simple": {"tick": "5 apples"}}),
            ": SimulatedModelServer one: spec.profile.simple.tick: '5 apples'",
        ),
        (
            server("one", profile={"simple": {"timeToFirstToken": "-5ms"}}),
            ": SimulatedModelServer one: spec.profile.simple.timeToFirst",
        ),
        (
            server("one", profileRef={"name": "fast"}),
            ": SimulatedModelServer one: spec: set exactly one of profile and profileRef",
        ),
        (
            user("one", name="gone"),
            ": SimulatedModelServer one: spec.profileRef.name: there is no LatencyProfile 'gone'",
        ),
        (
            user("one", kind="ClusterLatencyProfile", name="gone"),
            ": SimulatedModelServer one: spec.profileRef.name: there is no ClusterLatencyProfile 'gone'",
        ),
        (
            CLUSTER_PROFILE.replace("{name: fast}", "{name: fast, namespace: lab}"),
            ": metadata.namespace: a ClusterLatencyProfile belongs to no namespace; leave it out",
        ),
        (user("one", nam="x"), ": SimulatedModelServer one: spec.profileRef.nam"),
        (
            server("one", clock={"compression": 50}, profile={"simple": {"interTokenLatency": "20ms"}}),
            ": SimulatedModelServer one: spec.clock.compression: the profile does not go with the server's clock",
        ),
        (server("One"), ": SimulatedModelServer One: metadata.name: 'One' must be lower-case"),
        (
            server("one").replace("SimulatedModelServer", "SimulatedModelServr"),
            ": kind: unknown kind 'SimulatedModelServr'; did you mean",
        ),
        (server("one").replace("v1alpha1", "v1"), ": apiVersion: 'ghostfleet.dev/v1' is not 'ghostfleet.dev/v1alpha1'"),
        (server("one").replace("ghostfleet.dev", "ghostfleet.dv"), ": apiVersion: 'ghostfleet.dv/v1alpha1' is not"),
        (
            server("one").replace('"name": "one"}, "spec"', '"nam": "one"}, "spec"'),
            ": metadata.name: required, but not given",
        ),
        (server("one") + "\n---\n" + server("one"), " (document 2): SimulatedModelServer one is already in"),
        ("just text", ": an object with apiVersion, kind, metadata and spec is expected"),
        ("kind: [", ": line 1, column 8: not valid YAML"),
        ("a: 1\na: 2", ": line 2, column 1: not valid YAML: the key 'a' is there twice"),
    ],
)
def test_each_mistake_is_named_with_file_object_and_field(tmp_path: Path, text: str, expected: str) -> None:
    """A person finds the place without searching."""
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    assert any(line.startswith(expected) for line in problems(file)), problems(file)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Every object is looked at, whatever is wrong with the others."""
    file = tmp_path / "fleet.yaml"
    file.write_text(
        server("one", replicas=-1) + "\n---\n" + server("two", sed=1) + "\n---\n" + user("three", name="gone")
    )
    assert len(problems(file)) == 3


def test_an_invalid_profile_is_told_once(tmp_path: Path) -> None:
    """The mistake is in the profile, not in each server that refers to it."""
    file = tmp_path / "fleet.yaml"
    file.write_text(PROFILE.replace("5ms", "5mx") + "---\n" + user("one", name="fast"))
    (line,) = problems(file)
    assert line.startswith(" (document 1): LatencyProfile fast: spec.simple.timeToFirstToken: '5mx' is not a duration")


def test_missing_and_empty_paths(tmp_path: Path) -> None:
    """A path that gives nothing is told."""
    assert problems(tmp_path / "gone.yaml") == [": cannot be read: No such file or directory"]
    assert problems(tmp_path) == [": holds no file that ends in .yaml, .yml, .json"]


def test_the_later_of_apply_and_edit_counts(tmp_path: Path) -> None:
    """An applied object replaces that of the file until the file's is edited; an added one stays."""
    file, other, state = tmp_path / "fleet.yaml", tmp_path / "other.yaml", tmp_path / "applied.json"
    file.write_text(server("one", replicas=1))
    other.write_text(server("one", replicas=2) + "\n---\n" + server("two"))
    applied.put(state, read([other]), read([file]))

    def replicas() -> dict[str, int]:
        merged = applied.over(state, read([file]))
        return {r.server.metadata.name: r.server.spec.replicas for r in merged.resolved()}

    assert replicas() == {"one": 2, "two": 1}
    file.write_text(server("one", replicas=3))
    assert replicas() == {"one": 3, "two": 1}
    applied.put(state, read([other]), read([file]))
    assert replicas() == {"one": 2, "two": 1}
    assert Key("SimulatedModelServer", "default", "two") in applied.over(state, read([file])).sources
