"""Manifests of llm-d-inference-sim become servers of ours that say the same; nothing is lost in silence."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from tests.operator.llmd.manifests import RENDERER, beside, simulator, workload
from tests.operator.schemas import SCHEMAS, strict

from ghostfleet_operator.llmd.manifests import translated
from ghostfleet_operator.llmd.report import Report, Verdict
from ghostfleet_simulator.problems import InvalidInput

ALWAYS = ("engine", "http", "api", "failureHeaders", "kvTransfer", "lora")


def imported(*documents: Any, container: str | None = None) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """What comes out, and the remarks as verdict and text."""
    report = Report()
    made = translated([("f", document) for document in documents], report, container)
    return made, [(str(remark.verdict), remark.text) for remark in report.remarks]


def server(*documents: Any, **options: Any) -> dict[str, Any]:
    """The spec of the only server, without what is the same for all of them."""
    made, _ = imported(*documents, **options)
    (spec,) = (one["spec"] for one in made if one["kind"] == "SimulatedModelServer")
    return {key: value for key, value in spec.items() if key not in ALWAYS}


def remarks(*documents: Any, verdict: Verdict) -> list[str]:
    return [text for found, text in imported(*documents)[1] if found == verdict]


def problems(*documents: Any) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        imported(*documents)
    return [str(problem) for problem in refused.value.problems]


ARGS = ("--model", "org/model", "--port", "8000", "--max-loras", "2", "--lora-modules", '{"name": "food-review-1"}')
SERVER = {
    "model": {"name": "org/model", "maxModelLen": 1024, "multimodal": True},
    "scheduling": {"maxNumSeqs": 5, "maxNumBatchedTokens": 5120, "maxWaitingRequests": 1000},
    "kvCache": {"enablePrefixCaching": False, "blocks": 1025, "hashSeed": "0"},
}


def test_a_deployment_is_a_profile_and_a_server() -> None:
    labels = {"app": "qwen", "llm-d.ai/engine-type": "vllm"}
    times = ("--time-to-first-token=100ms", "--time-to-first-token-std-dev=20ms", "--inter-token-latency=400us")
    made, _ = imported(
        workload(
            simulator(*ARGS, *times, resources={"requests": {"cpu": "10m"}}), name="qwen", replicas=3, labels=labels
        )
    )
    profile, server = made
    assert (profile["apiVersion"], profile["kind"]) == ("ghostfleet.dev/v1alpha1", "LatencyProfile")
    assert profile["metadata"] == server["metadata"] == {"name": "qwen"}
    assert profile["spec"] == {
        "simple": {"timeToFirstToken": "100ms", "timeToFirstTokenStdDev": "20ms", "interTokenLatency": "400us"}
    }
    assert server["spec"]["lora"] == {"enabled": True, "maxLoras": 2, "adapters": [{"name": "food-review-1"}]}
    assert {key: value for key, value in server["spec"].items() if key not in ALWAYS} == {
        **SERVER,
        "replicas": 3,
        "profileRef": {"name": "qwen"},
        "pod": {"labels": labels, "resources": {"requests": {"cpu": "10m"}}},
    }


@pytest.mark.parametrize("kind", ["StatefulSet", "ReplicaSet"])
def test_other_workloads(kind: str) -> None:
    assert server(workload(simulator(*ARGS), kind=kind, replicas=2))["replicas"] == 2


def test_a_pod_is_a_server_with_one_replica() -> None:
    pod = workload(simulator(*ARGS))["spec"]["template"]
    spec = server({"kind": "Pod", **pod, "metadata": {"name": "one", "labels": {"app": "x"}}})
    assert ("replicas" in spec, spec["pod"]["labels"]) == (False, {"app": "x"})


def test_what_stands_in_between_comes_out_as_it_was_and_in_its_place() -> None:
    service = beside("Service", "front", selector={"app": "sim"}, ports=[{"port": 80, "targetPort": 8000}])
    pool = beside("InferencePool", "pool", selector={"matchLabels": {"app": "sim"}}, targetPorts=[{"number": 8000}])
    other = workload(simulator("x", image="org/envoy:1"), name="envoy")
    items = {"apiVersion": "v1", "kind": "List", "items": [service, workload(simulator(*ARGS)), pool]}
    made, told = imported(other, items)
    assert [one["kind"] for one in made] == [
        "Deployment",
        "Service",
        "LatencyProfile",
        "SimulatedModelServer",
        "InferencePool",
    ]
    assert (made[0], made[1], made[4]) == (other, service, pool)
    assert ("translated", "its selector finds the pods of sim") in told


def test_pod_fields_are_kept_and_what_is_left_is_told() -> None:
    document = workload(
        simulator(*ARGS, resources={"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}}, livenessProbe={}, lifecycle={}),
        RENDERER,
        {"name": "routing-sidecar", "image": "org/llm-d-routing-sidecar:v1"},
        {"name": "zmq-proxy", "image": "org/zmq"},
        labels={"app": "sim", "llm-d.ai/role": "", "ghostfleet.dev/server": "x"},
        nodeSelector={"kind": "cpu"},
        tolerations=[{"key": "a", "operator": "Exists"}],
        topologySpreadConstraints=[
            {
                "topologyKey": "zone",
                "maxSkew": 2,
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "sim"}},
            }
        ],
        priorityClassName="high",
        terminationGracePeriodSeconds=30,
        imagePullSecrets=[{"name": "registry"}],
        serviceAccountName="sa",
        affinity={},
        volumes=[{"name": "cache", "emptyDir": {}}],
    )
    document["spec"]["template"]["metadata"]["annotations"] = {"a": "b", "checksum/config": "x"}
    assert server(document)["pod"] == {
        "labels": {"app": "sim"},
        "annotations": {"a": "b"},
        "resources": {"limits": {"memory": "1Gi"}},
        "nodeSelector": {"kind": "cpu"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "terminationGracePeriodSeconds": 30,
        "imagePullSecrets": [{"name": "registry"}],
    }
    dropped = "\n".join(remarks(document, verdict=Verdict.DROPPED))
    for word in ("gpu", "llm-d.ai/role", "ghostfleet.dev/server", "routing-sidecar", "zmq-proxy", "affinity", "cache"):
        assert word in dropped
    needless = "\n".join(remarks(document, verdict=Verdict.NOT_NEEDED))
    for word in (
        "vllm-render",
        "livenessProbe",
        "lifecycle",
        "serviceAccountName",
        "checksum/config",
        "POD_IP",
        "labelSelector",
    ):
        assert word in needless


@pytest.mark.parametrize(("label", "role"), [("prefill", "Prefill"), ("decode", "Decode"), ("encode", "Encode")])
def test_the_label_of_a_role_is_a_role(label: str, role: str) -> None:
    spec = server(workload(simulator(*ARGS), labels={"app": "sim", "llm-d.ai/role": label}))
    assert (spec["role"], spec["pod"]["labels"]) == (role, {"app": "sim"})


def test_a_role_that_is_no_role_of_ours_stays_a_label() -> None:
    labels = {"app": "sim", "llm-d.ai/role": "prefill-decode"}
    spec = server(workload(simulator(*ARGS), labels=labels))
    assert ("role" in spec, spec["pod"]["labels"]) == (False, labels)


def test_every_setting_is_told() -> None:
    document = workload(simulator("--model=m", "--mode=echo", "--render-url=http://r", "--omni", "--hash-seed="))
    told = imported(document)[1]
    assert ("translated", "model, hash-seed") in told
    assert any(verdict == "approximated" and text.startswith("mode: ") for verdict, text in told)
    assert any(verdict == "not needed" and text.startswith("render-url: ") for verdict, text in told)
    assert any(verdict == "dropped" and text.startswith("omni: ") for verdict, text in told)


def test_the_api_server_takes_what_comes_out() -> None:
    flags = ("--enable-kvcache", "--startup-duration=30s", "--failure-injection-rate=7", "--seed=3", "--mode=echo")
    fakes = ("--fake-metrics", '{"kv-cache-usage": 0.95, "waiting-requests": "ramp:10:35:10s"}')
    made, _ = imported(workload(simulator(*ARGS, *flags, *fakes, resources={"requests": {"cpu": "10m"}})))
    assert len(made) == 2
    for one in made:
        assert not list(jsonschema.Draft202012Validator(strict(SCHEMAS[one["kind"]])).iter_errors(one))


# --- arguments, variables, files ---------------------------------------------------------------------


def test_variables_are_filled_in_as_kubernetes_does() -> None:
    env = [
        {"name": "NAME", "value": "org"},
        {"name": "SIM_MODEL", "value": "$(NAME)/m"},
        {"name": "PYTHONHASHSEED", "value": "42"},
        {"name": "EPP", "valueFrom": {"configMapKeyRef": {"name": "where", "key": "epp"}}},
        {"name": "GOGC", "value": "50"},
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "t"}}},
    ]
    args = ("--enable-kvcache=true", "--zmq-endpoint=tcp://$(EPP):5557", "--served-model-name", "$$(x)", "")
    where = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "where"}, "data": {"epp": "epp.ns"}}
    document = workload(simulator(*args, env=env))
    spec = server(document, where)
    assert spec["model"] == {"name": "org/m", "servedNames": ["$(x)"], "maxModelLen": 1024, "multimodal": True}
    assert spec["kvCache"]["hashSeed"] == "42"
    assert spec["kvEvents"] == {
        "enableKvCacheEvents": True,
        "endpoint": "tcp://epp.ns:5557",
        "topic": "kv@$(POD_IP):$(PORT)@org/m",
    }
    assert remarks(document, where, verdict=Verdict.DROPPED) == ["variable HF_TOKEN"]
    unknown = workload(simulator("--model=m", "--hash-seed=$(SEED)"))
    assert remarks(unknown, verdict=Verdict.CHECK) == [
        "'--hash-seed=$(SEED)': the value of SEED is not in the manifest"
    ]


@pytest.mark.parametrize(
    ("mount", "source"),
    [
        ({"mountPath": "/config"}, {}),
        ({"mountPath": "/config/"}, {"items": [{"key": "config.yaml", "path": "config.yaml"}]}),
        ({"mountPath": "/config/config.yaml", "subPath": "config.yaml"}, {}),
    ],
)
def test_its_file_is_read_from_the_config_map(mount: dict[str, Any], source: dict[str, Any]) -> None:
    """As its Helm chart has it; times without a unit, which do not start there, are milliseconds."""
    text = "model: org/m\nmode: echo\nmax-num-seqs: 1000\nmax-model-len: 32768\ntime-to-first-token: 500\nport: 8001\n"
    document = workload(
        simulator("--config", "/config/config.yaml", volumeMounts=[{"name": "config", **mount}]),
        volumes=[{"name": "config", "configMap": {"name": "cm", **source}}],
    )
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"config.yaml": text}}
    made, told = imported(config, document)
    assert made[1]["spec"] == {"simple": {"timeToFirstToken": "500ms"}}
    assert made[2]["spec"]["answers"] == {"mode": "Echo"}
    assert made[2]["spec"]["scheduling"]["maxNumSeqs"] == 1000
    assert ("to check", "port 8001: pods of the operator listen on 8000") in told
    assert problems(document)[0].startswith("f: Deployment sim: --config /config/config.yaml: no ConfigMap")


def test_arguments_can_stand_in_the_command() -> None:
    container = simulator("--max-num-seqs=7") | {"command": ["/app/llm-d-inference-sim", "--model", "m"]}
    assert server(workload(container))["scheduling"]["maxNumSeqs"] == 7


def test_a_container_can_be_named() -> None:
    container = simulator("--model=m", image="mirror.local/sim@sha256:00")
    assert server(workload(container), container="vllm-sim")["model"]["name"] == "m"
    assert "no workload has a container" in problems(workload(container))[0]


# --- what stands beside ------------------------------------------------------------------------------


def test_a_service_with_the_name_of_the_server_is_the_operators() -> None:
    service = beside("Service", "sim", type="NodePort", selector={"app": "sim"}, ports=[{"port": 8000}])
    made, told = imported(workload(simulator(*ARGS)), service)
    assert [one["kind"] for one in made] == ["LatencyProfile", "SimulatedModelServer"]
    assert made[1]["spec"]["networking"] == {"serviceType": "NodePort"}
    assert ("translated", "the operator makes a Service of this name") in told
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    service["metadata"]["annotations"] = {"lb.example.com/internal": "true"} | applied
    assert imported(workload(simulator(*ARGS)), service)[0][1]["spec"]["networking"] == {
        "serviceType": "NodePort",
        "serviceAnnotations": {"lb.example.com/internal": "true"},
    }
    other = beside("Service", "sim", selector={"app": "sim"}, ports=[{"port": 80}])
    assert "the operator makes a Service of this name; it has port 8000 and not 80" in remarks(
        workload(simulator(*ARGS)), other, verdict=Verdict.CHECK
    )


def test_ports_that_nobody_listens_on_are_told() -> None:
    service = beside("Service", "front", selector={"app": "sim"}, ports=[{"port": 80, "targetPort": 8200}])
    pool = beside("InferencePool", "p", selector={"matchLabels": {"app": "sim"}}, targetPorts=[{"number": 8002}])
    document = workload(simulator("--model=m", "--data-parallel-size=2"))
    assert remarks(document, service, pool, verdict=Verdict.CHECK) == [
        "targetPort 8200: pods of sim have the port 8000, 8001",
        "target port 8002: pods of sim have the port 8000, 8001",
    ]


def test_an_autoscaler_scales_the_server() -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "sim"}
    made, _ = imported(workload(simulator(*ARGS)), beside("HorizontalPodAutoscaler", "h", scaleTargetRef=target))
    assert made[2]["spec"]["scaleTargetRef"] == {
        "apiVersion": "ghostfleet.dev/v1alpha1",
        "kind": "SimulatedModelServer",
        "name": "sim",
    }
    assert "replicas" not in made[1]["spec"]


def test_namespaces_are_kept_apart() -> None:
    there = {"namespace": "there"}
    pool = beside("InferencePool", "p", selector={"matchLabels": {"app": "sim"}}, targetPorts=[{"number": 1}])
    made, told = imported(workload(simulator(*ARGS), metadata=there), pool)
    assert made[0]["metadata"] == {"name": "sim", "namespace": "there"}
    assert not [text for verdict, text in told if verdict == "to check"]


# --- what is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (workload(simulator("--model=m", "--block-size=7")), "f: Deployment sim: --block-size: 7 is not one of"),
        (workload(simulator("--port=1")), "f: Deployment sim: --model: required, but not given"),
        (workload(simulator("--model=${MODEL_NAME}")), "f: Deployment sim: ${MODEL_NAME} is still to be filled in"),
        (workload(simulator(image="${VLLM_IMAGE}")), "f: Deployment sim: ${VLLM_IMAGE} is still to be filled in"),
        (workload(simulator(*ARGS), name="7b"), "SimulatedModelServer 7b: metadata.name: '7b' must be"),
        (workload(simulator(*ARGS) | {"command": ["sh", "-c"]}), "f: Deployment sim: command: 'sh' is not"),
        ({"apiVersion": "v1"}, "f: an object with apiVersion"),
        (beside("Service", "s"), "no workload has a container of llm-d-inference-sim; --container names it"),
    ],
)
def test_problems_are_told_with_their_place(document: dict[str, Any], problem: str) -> None:
    (found,) = problems(document)
    assert found.startswith(problem)
