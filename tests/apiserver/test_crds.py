"""The generated CRDs on a real API server: accepted, structural, and with answers to bad input that name the field."""

from __future__ import annotations

from typing import Any

import pytest
from tests.apiserver.cluster import CRD, Cluster, Rejected, condition, path, profile, server

from ghostfleet_operator.reconcile.api import PROFILE, SERVER

NAMES = (
    "clusterlatencyprofiles.ghostfleet.dev",
    "latencyprofiles.ghostfleet.dev",
    "simulatedmodelservers.ghostfleet.dev",
)


def refusal(cluster: Cluster, obj: dict[str, Any]) -> str:
    with pytest.raises(Rejected) as caught:
        cluster.create(obj)
    assert caught.value.status in (400, 422)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_crd_is_established_and_its_schema_structural(cluster: Cluster, name: str) -> None:
    found = cluster.must_get(CRD, None, name)
    assert condition(found, "Established")["status"] == "True"
    assert condition(found, "NamesAccepted")["status"] == "True"
    assert not condition(found, "NonStructuralSchema"), condition(found, "NonStructuralSchema")
    assert found["spec"]["preserveUnknownFields"] is False if "preserveUnknownFields" in found["spec"] else True


def test_a_server_with_the_least_that_is_needed_gets_the_defaults(cluster: Cluster, namespace: str) -> None:
    made = cluster.create(server(namespace, "small", replicas=None, profile={}))
    assert made["spec"]["replicas"] == 1
    assert made["spec"]["model"]["maxModelLen"] == 32768


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"profileRef": {"name": "p"}}, "set exactly one of profile and profileRef"),
        ({"profile": None}, "set exactly one of profile and profileRef"),
        ({"replicas": -1}, "spec.replicas in body should be greater than or equal to 0"),
        ({"replicas": "3"}, "spec.replicas in body must be of type integer"),
        ({"replica": 3}, 'unknown field "spec.replica"'),
        ({"model": {}}, "spec.model.name: Required value"),
        ({"model": {"name": "m", "maxModelLen": 4}}, "spec.model.maxModelLen"),
        ({"model": {"name": "m", "maxModelLen": 1000000}}, "one sequence of maxModelLen"),
        ({"profile": {"simple": {"timeToFirstToken": "20 parsecs"}}}, "spec.profile.simple.timeToFirstToken"),
        ({"profile": {"simple": {"timeToFirstToken": "-20ms"}}}, "spec.profile.simple.timeToFirstToken"),
        ({"profile": {"simple": {"timeToFirstToken": -1}}}, "spec.profile.simple.timeToFirstToken"),
        ({"profile": {"simple": {"timeToFistToken": "20ms"}}}, 'unknown field "spec.profile.simple.timeToFistToken"'),
        ({"failures": [{"type": "Meteor", "probability": "0.1"}]}, 'Unsupported value: "Meteor"'),
        ({"failures": [{"type": "RateLimit", "probability": "2"}]}, "spec.failures[0].probability"),
        ({"failures": [{"type": "Hang"}, {"type": "Hang"}]}, "spec.failures[1]: Duplicate value"),
        ({"failures": [{"type": "Hang", "match": {"endpoints": ["Disk"]}}]}, 'Unsupported value: "Disk"'),
    ],
)
def test_bad_input_is_refused_with_the_field(
    cluster: Cluster, namespace: str, spec: dict[str, Any], words: str
) -> None:
    assert words in refusal(cluster, server(namespace, "bad", **spec))


def test_failures_of_one_type_are_told_apart_by_name(cluster: Cluster, namespace: str) -> None:
    failures = [
        {"type": "Hang", "match": {"endpoints": ["Metrics"]}},
        {"type": "Hang", "name": "answers", "duration": "5s", "probability": "0.1"},
    ]
    made = cluster.create(server(namespace, "two-hangs", failures=failures))
    assert [failure["name"] for failure in made["spec"]["failures"]] == ["", "answers"]


@pytest.mark.parametrize("value", [20, "12.5ms", "1.5s", "250us"])
def test_durations_are_numbers_of_milliseconds_or_strings_with_a_unit(
    cluster: Cluster, namespace: str, value: object
) -> None:
    made = cluster.create(server(namespace, "good", profile={"simple": {"timeToFirstToken": value}}))
    assert made["spec"]["profile"]["simple"]["timeToFirstToken"] == value


def test_a_bad_profile_is_refused_with_the_field(cluster: Cluster, namespace: str) -> None:
    assert "spec.simple.timeToFirstToken" in refusal(cluster, profile(namespace, "bad", "20 parsecs"))
    assert 'unknown field "spec.simple.tik"' in refusal(cluster, profile(namespace, "bad", tik="1ms"))


def test_the_model_of_a_server_cannot_be_changed(cluster: Cluster, namespace: str) -> None:
    cluster.create(server(namespace, "fixed"))
    with pytest.raises(Rejected, match="the model of a server cannot be changed"):
        cluster.merge(SERVER, namespace, "fixed", {"spec": {"model": {"name": "other"}}})


def test_a_name_that_would_not_fit_a_service_is_refused(cluster: Cluster, namespace: str) -> None:
    assert "at most 48" in refusal(cluster, server(namespace, "s" * 49))
    assert "begin with a letter" in refusal(cluster, server(namespace, "1st"))


def table(cluster: Cluster, kind: Any, namespace: str) -> tuple[list[str], list[Any]]:
    answer = cluster.client.get(
        path(kind, namespace), headers={"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    ).json()
    return [column["name"] for column in answer["columnDefinitions"]], answer["rows"][0]["cells"]


def test_kubectl_shows_the_columns_a_fleet_owner_scans(cluster: Cluster, namespace: str) -> None:
    cluster.create(profile(namespace, "p"))
    cluster.create(server(namespace, "s", replicas=3, profile=None, profileRef={"name": "p"}))
    columns, cells = table(cluster, SERVER, namespace)
    assert {"Name", "Ready", "Replicas", "Profile", "Synced", "Model", "Age"} <= set(columns)
    row = dict(zip(columns, cells, strict=True))
    assert (row["Name"], row["Profile"], row["Model"]) == ("s", "p", "org/model")
    columns, _ = table(cluster, PROFILE, namespace)
    assert {"Name", "Valid", "Used-by", "Age"} <= set(columns)


def test_the_scale_subresource_reads_and_writes_replicas(cluster: Cluster, namespace: str) -> None:
    cluster.create(server(namespace, "scaled", replicas=2))
    scale = cluster.call("GET", path(SERVER, namespace, "scaled") + "/scale")
    assert scale["spec"]["replicas"] == 2
    cluster.merge(SERVER, namespace, "scaled", {"spec": {"replicas": 5}}, "/scale")
    assert cluster.must_get(SERVER, namespace, "scaled")["spec"]["replicas"] == 5


def test_the_kinds_are_found_by_their_short_names_and_their_category(cluster: Cluster) -> None:
    listed = cluster.call("GET", "/apis/ghostfleet.dev/v1alpha1")["resources"]
    found = {r["name"]: (r.get("shortNames"), r.get("categories")) for r in listed if "/" not in r["name"]}
    assert found == {
        "simulatedmodelservers": (["sms"], ["ghostfleet"]),
        "latencyprofiles": (["lprof"], ["ghostfleet"]),
        "clusterlatencyprofiles": (["clprof"], ["ghostfleet"]),
    }
