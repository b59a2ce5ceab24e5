"""The real API server and the models judge the same objects alike; what differs is what the reference lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.apiserver.cluster import Cluster, Rejected, path
from tests.operator.schemas import LATER, SCHEMAS, SPECS, mended, mutants, parsed, problems, wrapped, written

from ghostfleet_operator.kinds.rules import PROFILE_RULES, SERVER_RULES
from ghostfleet_operator.reconcile.api import OWN
from ghostfleet_operator.reconcile.api import Kind as ApiKind

KINDS = {kind.name: kind for kind in OWN}

Judge = Callable[[str, Any], Any]
"""The spec that the API server would store for one of a kind, or its refusal."""


@pytest.fixture(scope="module")
def judge(cluster: Cluster) -> Judge:
    def ask(name: str, spec: Any) -> Any:
        kind: ApiKind = KINDS[name]
        namespace = "default" if kind.namespaced else None
        obj = wrapped(name, spec)
        obj["metadata"] = {"name": "judged", **({"namespace": namespace} if namespace else {})}
        try:
            made = cluster.call("POST", path(kind, namespace), obj, dryRun="All", fieldValidation="Strict")
        except Rejected as refusal:
            return refusal
        return made["spec"]

    return ask


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_a_model_writes_the_api_server_takes_and_the_defaults_it_adds_change_nothing(
    judge: Judge, kind: str, data: st.DataObject
) -> None:
    spec = mended(kind, data.draw(SPECS[kind]))
    wanted = parsed(kind, spec)
    for given_spec in (spec, written(wanted)):
        stored = judge(kind, given_spec)
        assert not isinstance(stored, Rejected), stored
        assert parsed(kind, stored) == wanted


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_an_object_that_the_schema_takes_is_refused_by_both_or_for_what_only_the_operator_tells(
    judge: Judge, kind: str, data: st.DataObject
) -> None:
    spec = data.draw(SPECS[kind])
    agree(judge, kind, spec)


@pytest.mark.parametrize("kind", SCHEMAS)
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_mutant_is_refused_by_both_or_for_what_only_the_operator_tells(
    judge: Judge, kind: str, data: st.DataObject
) -> None:
    spec, _ = data.draw(mutants(kind))
    agree(judge, kind, spec)


def agree(judge: Judge, kind: str, spec: Any) -> None:
    stored, found = judge(kind, spec), problems(kind, spec)
    if isinstance(stored, Rejected):
        assert found, f"the API server alone refuses it: {stored}"
        assert stored.status in (400, 422), stored
    for problem in () if isinstance(stored, Rejected) else found:
        assert any(rule.covers(problem) for rule in LATER[kind]), f"the models alone refuse it: {problem}"


MODEL = {"name": "m"}
SIMPLE = {"simple": {}}
HARDWARE = {"tflops16": 900, "memoryGBps": 3000}
SHAPE = {"layers": 32, "hidden": 4096, "heads": 32, "kvHeads": 8, "headDim": 128, "ffn": 14336, "vocab": 128256}


def roofline(**values: Any) -> dict[str, Any]:
    found = {"model": "Llama-3.1-8B", "gpu": "H100-SXM", **values}
    return {"backend": "Roofline", "roofline": {key: value for key, value in found.items() if value is not None}}


PROFILES: list[tuple[dict[str, Any], str]] = [
    ({"backend": "StepTime"}, "the block of the backend is required"),
    ({"backend": "Table", "stepTime": {}}, "the block of the backend is required"),
    ({"simple": {"timeFactorUnderLoad": "0.9"}}, "must be at least 1"),
    ({"simple": {"timeFactorUnderLoad": 0}}, "must be at least 1"),
    ({"backend": "StepTime", "stepTime": {"softMax": "64.1"}}, "must be at least 1 and at most 64"),
    (roofline(softMax=65), "must be at least 1 and at most 64"),
    (roofline(memoryFactor="0.0"), "must be more than 0"),
    (roofline(geometry=SHAPE), "set exactly one of model and geometry"),
    (roofline(model=None), "set exactly one of model and geometry"),
    (roofline(hardware=HARDWARE), "set exactly one of gpu and hardware"),
    (roofline(gpu=None), "set exactly one of gpu and hardware"),
    (roofline(model=None, geometry=SHAPE | {"experts": 8}), "expertsPerToken is from 1 to experts"),
    (roofline(model=None, geometry=SHAPE | {"experts": 8, "expertsPerToken": 9}), "expertsPerToken is from 1"),
    (roofline(model=None, geometry=SHAPE | {"sharedExperts": 1}), "without experts it and sharedExperts are 0"),
    (roofline(gpu=None, hardware=HARDWARE | {"linkGBps": "0"}), "linkGBps must be more than 0"),
    (roofline(efficiency={"kvRead": "1.01"}), "every share must be more than 0 and at most 1"),
    (roofline(efficiency={"link": 0}), "every share must be more than 0 and at most 1"),
    ({"noise": {"step": {"sigma": "1.1"}}}, "must be at most 1"),
    ({"noise": {"stall": {"meanFraction": 101}}}, "must be at most 100"),
    ({"noise": {"request": {"cv": "0"}}}, "must be more than 0 and at most 1"),
]
SERVERS: list[tuple[dict[str, Any], str]] = [
    (
        {"scheduling": {"enableChunkedPrefill": False, "maxNumBatchedTokens": 2048}},
        "without chunked prefill scheduling.maxNumBatchedTokens must be at least model.maxModelLen",
    ),
    ({"model": MODEL | {"servedNames": ["a", "b", "a"]}}, "the names must differ from each other"),
    ({"scheduling": {"watermark": "100.0%"}}, "must be below 1"),
    ({"scheduling": {"watermark": "1"}}, "must be below 1"),
    ({"clock": {"compression": "0.5"}}, "must be at least 1 and at most 1000"),
    ({"clock": {"compression": 1001}}, "must be at least 1 and at most 1000"),
    ({"answers": {"length": {"min": 10, "max": 9}}}, "min must not be above max"),
    ({"answers": {"length": {"distribution": "Histogram"}}}, "a histogram needs a bucket"),
    (
        {"answers": {"length": {"distribution": "Histogram", "buckets": [{"upTo": 5, "weight": 0}]}}},
        "a histogram needs a bucket",
    ),
    ({"kvTransfer": {"kvConnector": "NixlConnector"}}, "a connector needs kvRole"),
    (
        {"kvTransfer": {"kvConnector": "SGLang", "kvRole": "kv_both"}},
        "with SGLang a server either prefills, kv_producer, or decodes, kv_consumer",
    ),
    ({"failures": [{"type": "HTTPError"}]}, "an HTTPError needs a status"),
    ({"failures": [{"type": "MemoryGrowth", "growth": "1Mi"}]}, "MemoryGrowth needs growth and limit"),
    ({"failures": [{"type": "KVEventDelay"}]}, "a KVEventDelay needs a duration"),
    ({"failures": [{"type": "KVTransferDelay"}]}, "a KVTransferDelay needs a duration"),
    ({"failures": [{"type": "Unready", "duty": "50%"}]}, "duty is a share of period"),
    ({"failures": [{"type": "Hang", "match": {"endpoints": ["Chat", "Chat"]}}]}, "Duplicate value"),
    ({"fakeMetrics": {"other:queue": "1"}}, "each key is a series that begins with vllm: or sglang: or trtllm_ or nv_"),
    ({"pod": {"tolerations": [{}]}}, "Equal needs a key"),
    ({"pod": {"tolerations": [{"operator": "Exists", "value": "x"}]}}, "Exists takes no value"),
    ({"pod": {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}}, "tolerationSeconds is for the effect NoExecute"),
]


@pytest.mark.parametrize("kind", ["LatencyProfile", "ClusterLatencyProfile"])
@pytest.mark.parametrize(("spec", "words"), PROFILES)
def test_a_profile_that_breaks_a_rule_is_refused_with_its_message_and_by_the_model(
    judge: Judge, kind: str, spec: dict[str, Any], words: str
) -> None:
    assert words in str(judge(kind, spec))
    assert problems(kind, spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [*SERVERS, *(({"profile": spec}, words) for spec, words in PROFILES)],
)
def test_a_server_that_breaks_a_rule_is_refused_with_its_message_and_by_the_model(
    judge: Judge, spec: dict[str, Any], words: str
) -> None:
    whole = {"model": MODEL, "profile": SIMPLE, **spec}
    assert words in str(judge("SimulatedModelServer", whole))
    assert problems("SimulatedModelServer", whole)


def test_every_rule_of_the_table_is_broken_above() -> None:

    for rules, cases in ((PROFILE_RULES, PROFILES), (SERVER_RULES, SERVERS)):
        for rule in rules:
            assert any(words in rule.message for _, words in cases), rule
