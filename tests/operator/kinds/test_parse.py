"""Raw objects become kinds, or a clear list of what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator.objects import raw_profile, raw_server

from ghostfleet_operator.kinds import parse_profile, parse_server, parse_status
from ghostfleet_simulator.problems import InvalidInput
from ghostfleet_simulator.units import Duration


def problems(raw: object, parse: Any = parse_server) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        parse(raw)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_server_of_a_few_lines_has_the_defaults_of_the_simulator() -> None:
    found = parse_server(raw_server())
    assert found.spec.replicas == 1
    assert found.spec.limits == (256, 2048)
    assert found.spec.profile is not None
    assert found.spec.profile.simple.inter_token_latency == Duration.parse("20ms")
    assert (found.metadata.namespace, found.metadata.generation) == ("lab", 3)


def test_what_the_api_server_adds_to_metadata_is_skipped() -> None:
    raw = raw_server()
    raw["metadata"] |= {"managedFields": [{}], "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}
    assert parse_server(raw).metadata.name == "alpha"


def test_a_status_of_any_shape_does_not_disturb_the_spec() -> None:
    assert parse_server(raw_server() | {"status": {"conditions": "none"}}).status is None


def test_a_status_that_cannot_be_read_counts_as_none() -> None:
    assert parse_status({"status": {"conditions": "none"}}) == parse_status({}) == parse_status(None)
    newer = {"status": {"readyReplicas": 2, "ofALaterVersion": {}}}
    assert parse_status(newer).ready_replicas == 2


@pytest.mark.parametrize(
    ("spec", "path", "part"),
    [
        ({"replica": 2}, "spec.replica", "did you mean 'replicas'?"),
        ({"model": {"name": "m", "maxModelLength": 9}}, "spec.model.maxModelLength", "did you mean 'maxModelLen'?"),
        ({"model": {"name": "m", "served_names": ["x"]}}, "spec.model.served_names", "did you mean 'servedNames'?"),
        ({"model": {}}, "spec.model.name", "required"),
        ({"replicas": -1}, "spec.replicas", "greater than or equal to 0"),
        ({"replicas": 1001}, "spec.replicas", "less than or equal to 1000"),
        ({"replicas": "2"}, "spec.replicas", "integer"),
        ({"suspend": "yes"}, "spec.suspend", "boolean"),
        ({"profile": {"simple": {"tick": "3 parsec"}}}, "spec.profile.simple.tick", "units ns, us, ms, s, m, h"),
        ({"profile": {"simple": {"tick": -3}}}, "spec.profile.simple.tick", "cannot be negative"),
        ({"profile": {"simple": {"tick": 1.5}}}, "spec.profile.simple.tick", "whole number"),
        ({"profile": {"simple": {"tick": "5s"}}}, "spec.profile.simple.tick", "between 10us and 1s"),
        ({"failures": [{"type": "Fire", "probability": "1"}]}, "spec.failures[0].type", "'RateLimit'"),
        ({"failures": [{"type": "RateLimit", "probability": 0.5}]}, "spec.failures[0].probability", "such as '0.05'"),
        ({"failures": [{"type": "RateLimit", "probability": "0.1"}] * 2}, "spec.failures", "listed twice"),
        ({"kvCache": {"blocks": 100}}, "spec.kvCache.blocks", "at least 2049"),
        ({"networking": {"serviceType": "Tunnel"}}, "spec.networking.serviceType", "'ClusterIP'"),
        ({"pod": {"labels": {"ghostfleet.dev/server": "x"}}}, "spec.pod.labels", "belong to the operator"),
        ({"pod": {"labels": {"not a key": "x"}}}, "spec.pod.labels", "is not a key"),
        ({"pod": {"labels": {"a\n": "x"}}}, "spec.pod.labels", "is not a key"),
        ({"pod": {"labels": {"a": "not a value"}}}, "spec.pod.labels.a", "pattern"),
        (
            {"role": "Decode", "pod": {"labels": {"llm-d.ai/role": "prefill"}}},
            "spec.pod.labels",
            "'prefill', but role is Decode; give one of them",
        ),
        ({"role": "decode"}, "spec.role", "'Decode'"),
        ({"networking": {"inferencePool": {"epp": "x"}}}, "spec.networking.inferencePool.epp", "unknown"),
        (
            {"networking": {"inferencePool": {"endpointPickerRef": {"failureMode": "Open"}}}},
            "spec.networking.inferencePool.endpointPickerRef.failureMode",
            "'FailOpen'",
        ),
        (
            {"networking": {"inferencePool": {"selector": {"matchLabels": {}}}}},
            "spec.networking.inferencePool.selector.matchLabels",
            "at least 1",
        ),
        ({"pod": {"image": {"digest": "sha256:1"}}}, "spec.pod.image.digest", "pattern"),
        ({"pod": {"resources": {"limits": {"memory": "lots"}}}}, "spec.pod.resources.limits.memory", "not an amount"),
        (
            {"pod": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}},
            "spec.pod.resources.requests.cpu",
            "more than the limit of 1500m",
        ),
        (
            {"pod": {"topologySpreadConstraints": [{"topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}] * 2}},
            "spec.pod.topologySpreadConstraints",
            "must differ",
        ),
        (
            {"networking": {"serviceAnnotations": {"ghostfleet.dev/x": "y"}}},
            "spec.networking.serviceAnnotations",
            "reserved",
        ),
        ({"pod": {"tolerations": [{"operator": "Equal"}]}}, "spec.pod.tolerations[0].key", "required"),
        ({"pod": {"tolerations": [{"operator": "Exists", "value": "x"}]}}, "spec.pod.tolerations[0].value", "empty"),
        ({"pod": {"imagePullSecrets": [{"name": "a"}] * 2}}, "spec.pod.imagePullSecrets", "differ"),
    ],
)
def test_bad_input_is_answered_with_the_path_and_what_is_allowed(spec: dict[str, Any], path: str, part: str) -> None:
    found = problems(raw_server(**spec))
    assert list(found) == [path]
    assert part in found[path]


def test_a_profile_is_given_once() -> None:
    both = problems(raw_server(profile={}, profileRef={"name": "mid-size"}))
    raw = raw_server()
    del raw["spec"]["profile"]
    assert both == {"spec": "set exactly one of profile and profileRef; both are set"}
    assert problems(raw) == {"spec": "set exactly one of profile and profileRef; neither is set"}


@pytest.mark.parametrize("name", ["Alpha", "a.b", "-a", "a-", "1a", "a" * 49])
def test_a_name_that_no_service_could_have_is_refused(name: str) -> None:
    assert list(problems(raw_server(name))) == ["metadata.name"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"apiVersion": "ghostfleet.dev/v1"}, "apiVersion"),
        ({"kind": "Server"}, "kind"),
        ({"spce": {}}, "spce"),
        ({"metadata": {}}, "metadata.name"),
    ],
)
def test_the_frame_of_an_object_is_checked_too(change: dict[str, Any], path: str) -> None:
    assert list(problems(raw_server() | change)) == [path]


@pytest.mark.parametrize("raw", [None, 3, "text", [], {}])
def test_what_is_no_object_is_refused(raw: object) -> None:
    assert problems(raw)


def test_yaml_that_is_not_json_is_refused_in_words() -> None:
    raw = raw_server(seed={1, 2})
    assert "set" in problems(raw)[""]


def test_every_problem_is_told_at_once() -> None:
    assert set(problems(raw_server(replicas=-1, seed=-1, model={"name": ""}))) == {
        "spec.replicas",
        "spec.seed",
        "spec.model.name",
    }


def test_a_profile_tells_its_problems_like_a_server() -> None:
    assert parse_profile(raw_profile(timeToFirstToken="1s")).spec.simple.time_to_first_token.ns == 10**9
    found = problems(raw_profile(timeToFirstTokn="1s"), parse_profile)
    assert found == {"spec.simple.timeToFirstTokn": "unknown field; did you mean 'timeToFirstToken'?"}
    deviation = problems(raw_profile(timeToFirstToken="100ms", timeToFirstTokenStdDev="31ms"), parse_profile)
    assert "at most 30 %" in deviation["spec.simple.timeToFirstTokenStdDev"]
