"""The InferencePool of a server."""

from __future__ import annotations

import jsonschema
import pytest
import yaml
from e2e.build.manifests import inference_extension
from e2e.shell import Failure
from tests.operator.objects import UID, planned

from ghostfleet_operator.plan.inference_pool import inference_pool


def test_none_is_made_unasked() -> None:
    assert inference_pool(planned()) is None


def test_by_default_it_is_over_the_pods_of_the_server_and_named_like_it() -> None:
    made = inference_pool(planned(networking={"inferencePool": {}}))
    assert made is not None
    assert (made["apiVersion"], made["kind"]) == ("inference.networking.k8s.io/v1", "InferencePool")
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("lab", "alpha")
    assert made["metadata"]["ownerReferences"][0]["uid"] == UID
    assert made["spec"] == {
        "selector": {"matchLabels": {"ghostfleet.dev/server": "alpha"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {
            "group": "",
            "kind": "Service",
            "name": "alpha-epp",
            "port": {"number": 9002},
            "failureMode": "FailClose",
        },
    }


def test_all_of_it_can_be_said() -> None:
    picker = {"name": "picker", "port": {"number": 7000}, "failureMode": "FailOpen"}
    pool = {"name": "both", "endpointPickerRef": picker, "selector": {"matchLabels": {"app": "shop"}}}
    made = inference_pool(planned(networking={"inferencePool": pool}))
    assert made is not None
    assert made["metadata"]["name"] == "both"
    assert made["spec"]["endpointPickerRef"] == picker | {"group": "", "kind": "Service"}
    assert made["spec"]["selector"] == {"matchLabels": {"app": "shop"}}


def test_every_port_of_a_pod_is_one() -> None:
    """An endpoint picker takes each of them for a server of its own: a data-parallel rank."""
    ranks = {"dataParallelSize": 3, "dataParallelPortPerRank": True}
    made = inference_pool(planned(networking={"inferencePool": {}}, **ranks))
    assert made is not None
    assert made["spec"]["targetPorts"] == [{"number": 8000}, {"number": 8001}, {"number": 8002}]


@pytest.mark.parametrize("pool", [{}, {"name": "b.c", "endpointPickerRef": {"name": "x"}}])
def test_it_is_what_the_definition_of_the_kind_allows(pool: dict[str, object]) -> None:
    try:
        text = (inference_extension() / "inference.networking.k8s.io_inferencepools.yaml").read_text()
    except Failure as error:
        pytest.skip(str(error).splitlines()[0])
    schema = yaml.safe_load(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    made = inference_pool(planned(networking={"inferencePool": pool}))
    jsonschema.validate(made, schema)
