"""The children of a server as Kubernetes takes them."""

from __future__ import annotations

import base64
import json
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.objects import UID, planned

from ghostfleet_operator.kinds.pod import Image
from ghostfleet_operator.plan.kubernetes import children, deployment, endpoints_config_map
from ghostfleet_operator.plan.naming import ChildNames, is_ours, selector
from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.plan.options import Options
from ghostfleet_operator.plan.pods import image_reference, stopping
from ghostfleet_simulator.document import Document

OPTIONS = Options("registry.example:5000/ghostfleet-sim:0.1.0", ("secret-token",))
DIGEST = "sha256:" + "a" * 64
EVERYTHING: dict[str, Any] = {
    "labels": {"llm-d.ai/role": "decode", "app.kubernetes.io/part-of": "shop"},
    "annotations": {"example.com/note": "hello"},
    "image": {"tag": "dev", "pullPolicy": "Never"},
    "imagePullSecrets": [{"name": "mine"}],
    "resources": {"requests": {"cpu": 1}, "limits": {"cpu": "2", "memory": "64Mi"}},
    "nodeSelector": {"pool": "simulated"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
    "topologySpreadConstraints": [
        {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2}
    ],
    "priorityClassName": "low",
    "terminationGracePeriodSeconds": 7,
}


def made(options: Options = OPTIONS, **spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(child["kind"], child["metadata"]["name"]): child for child in children(planned(**spec), options)}


def pod_of(options: Options = OPTIONS, **spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = deployment(planned(**spec), options)["spec"]["template"]
    return found


@pytest.mark.parametrize("version", ["1.30", "1.34"])
@pytest.mark.parametrize("pod", [{}, EVERYTHING])
def test_children_are_valid_objects(pod: dict[str, Any], version: str) -> None:
    networking = {"serviceType": "LoadBalancer", "serviceAnnotations": {"lb.example.com/internal": "true"}}
    plan = planned(pod=pod, networking=networking)
    for child in [*children(plan, OPTIONS), endpoints_config_map(plan, ())]:
        kubernetes_validate.validate(child, version, strict=True)


def test_the_same_plan_gives_the_same_children() -> None:
    assert made(pod=EVERYTHING) == made(pod=EVERYTHING)


def test_every_child_is_controlled_by_its_server_and_found_by_its_label() -> None:
    for child in made().values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert owner == {
            "apiVersion": "ghostfleet.dev/v1alpha1",
            "kind": "SimulatedModelServer",
            "name": "alpha",
            "uid": UID,
            "controller": True,
            "blockOwnerDeletion": True,
        }
        assert child["metadata"]["namespace"] == "lab"
        assert child["metadata"]["labels"]["ghostfleet.dev/server"] == "alpha"


def test_children_are_applied_so_that_pods_find_what_they_mount() -> None:
    assert [child["kind"] for child in children(planned(), OPTIONS)] == [
        "ConfigMap",
        "Secret",
        "Service",
        "Service",
        "Deployment",
    ]


def test_names_are_dns_labels_even_for_the_longest_server() -> None:
    names = ChildNames.of("a" * 48, UID)
    for name in (getattr(names, field) for field in ChildNames.__slots__):
        assert len(name) <= 63
    assert ChildNames.of("alpha", UID).secret == "alpha-admin-0d9ab2a4"


def test_the_config_map_holds_the_document_that_a_server_reads() -> None:
    plan = planned()
    child = made()["ConfigMap", "alpha-config"]
    assert Document.parse(json.loads(child["data"]["server.json"])) == plan.document
    assert child["metadata"]["annotations"] == {
        "ghostfleet.dev/revision": "1",
        "ghostfleet.dev/hash": plan.document.hash,
    }


def test_the_token_is_in_the_secret_and_nowhere_else() -> None:
    found = made()
    secret = found.pop(("Secret", "alpha-admin-0d9ab2a4"))
    assert base64.b64decode(secret["data"]["token"]) == b"secret-token"
    assert "secret-token" not in json.dumps(list(found.values())) + repr(OPTIONS)


def test_a_live_change_leaves_the_deployment_as_it_is() -> None:
    """Profile, failures and answers reach pods without a restart: nothing of them is in the pod template."""
    live = {"failures": [{"type": "Unready"}, {"type": "Hang", "name": "one"}], "failureHeaders": True}
    before, after = made(), made(profile={"simple": {"timeToFirstToken": "1s"}}, answers={"mode": "Echo"}, **live)
    changed = [key for key in before if before[key] != after[key]]
    assert changed == [("ConfigMap", "alpha-config")]


def test_a_change_that_needs_a_restart_changes_the_pod_template() -> None:
    assert pod_of() != pod_of(scheduling={"maxNumSeqs": 4})
    assert pod_of() == pod_of(replicas=9)


def test_pods_satisfy_the_restricted_pod_security_standard() -> None:
    spec = pod_of()["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(k for k in volume if k != "name") for volume in spec["volumes"]} == {"configMap", "secret", "emptyDir"}
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)


def test_the_container_keeps_the_pod_contract() -> None:
    (container,) = pod_of()["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    arguments = dict(zip(container["args"][1::2], container["args"][2::2], strict=True))
    assert container["args"][0] == "serve"
    assert arguments == {
        "--as": "vllm",
        "--config": f"{mounts['config']}/server.json",
        "--host": "0.0.0.0",
        "--port": "8000",
        "--admin-port": "9101",
        "--admin-token-file": f"{mounts['admin']}/token",
        "--shutdown-timeout": "50",
    }
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {
        name: (container[name]["httpGet"]["path"], ports[container[name]["httpGet"]["port"]])
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert probes == {
        "startupProbe": ("/health", 8000),
        "livenessProbe": ("/health", 8000),
        "readinessProbe": ("/admin/ready", 9101),
    }
    assert [variable["name"] for variable in container["env"]] == ["POD_NAME", "POD_NAMESPACE", "POD_IP"]


def test_a_pod_that_takes_long_to_start_is_given_the_time_to() -> None:
    for duration, failures in (("0s", 60), ("2m", 180), ("1500ms", 62)):
        (container,) = pod_of(lifecycle={"startupDuration": duration})["spec"]["containers"]
        assert container["startupProbe"]["failureThreshold"] == failures


def test_a_pod_serves_until_it_is_off_all_lists_and_then_drains_within_its_grace_period() -> None:
    for grace, sleep, drain in ((60, 5, 50), (7, 1, 5), (3600, 5, 3590)):
        spec = pod_of(pod={"terminationGracePeriodSeconds": grace})["spec"]
        (container,) = spec["containers"]
        assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": sleep}}}
        assert container["args"][-2:] == ["--shutdown-timeout", str(drain)]
        assert spec["terminationGracePeriodSeconds"] == grace
    hurried = pod_of(pod={"terminationGracePeriodSeconds": 1})["spec"]["containers"][0]
    assert "lifecycle" not in hurried, "the API server refuses a sleep of no seconds"


@given(st.integers(1, 3600))
def test_half_of_any_grace_period_is_for_running_requests(grace: int) -> None:
    withdrawal, drain = stopping(grace)
    assert grace / 2 <= drain <= grace - 2 * withdrawal
    assert withdrawal >= 0


@pytest.mark.parametrize(
    ("engine", "value"),
    [
        ({}, "vllm"),
        ({"dialect": "SGLang"}, "sglang"),
        ({"dialect": "TensorRTLLM"}, "trtllm-serve"),
        ({"dialect": "TritonTensorRTLLM"}, "triton-tensorrt-llm"),
        ({"dialect": "Triton"}, "triton"),
    ],
)
def test_a_pod_says_how_its_metrics_are_named(engine: dict[str, str], value: str) -> None:
    """As llm-d's endpoint picker has the engines built in; a label of the user's own wins."""
    assert pod_of(engine=engine)["metadata"]["labels"]["llm-d.ai/engine-type"] == value
    own = pod_of(engine=engine, pod={"labels": {"llm-d.ai/engine-type": "ours"}})
    assert own["metadata"]["labels"]["llm-d.ai/engine-type"] == "ours"


def test_what_the_user_says_about_pods_is_in_the_template() -> None:
    options = Options("ghostfleet-sim:0.1.0", ("t",), image_pull_policy="Always", image_pull_secrets=("ours", "mine"))
    template = pod_of(options, pod=EVERYTHING)
    spec = template["spec"]
    (container,) = spec["containers"]
    assert template["metadata"]["labels"]["llm-d.ai/role"] == "decode"
    assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "shop"
    assert template["metadata"]["annotations"]["example.com/note"] == "hello"
    assert spec["imagePullSecrets"] == [{"name": "ours"}, {"name": "mine"}]
    assert spec["nodeSelector"] == {"pool": "simulated"}
    assert spec["tolerations"] == EVERYTHING["tolerations"]
    (spread,) = spec["topologySpreadConstraints"]
    assert spread == {
        "topologyKey": "topology.kubernetes.io/zone",
        "maxSkew": 2,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"ghostfleet.dev/server": "alpha"}},
        "matchLabelKeys": ["pod-template-hash"],
    }
    assert (spec["priorityClassName"], spec["terminationGracePeriodSeconds"]) == ("low", 7)
    assert (container["image"], container["imagePullPolicy"]) == ("ghostfleet-sim:dev", "Never")


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ({}, None),
        ({"role": "PrefillDecode"}, None),
        ({"role": "Prefill"}, "prefill"),
        ({"role": "Decode"}, "decode"),
        ({"role": "Encode"}, "encode"),
        ({"role": "Decode", "pod": {"labels": {"llm-d.ai/role": "decode"}}}, "decode"),
        ({"pod": {"labels": {"llm-d.ai/role": "encode-prefill"}}}, "encode-prefill"),
        ({"pod": {"labels": {"llm-d.ai/role": ""}}}, None),
        ({"role": "Decode", "pod": {"labels": {"llm-d.ai/role": ""}}}, "decode"),
    ],
)
def test_a_role_is_a_label_of_the_pods_and_never_an_empty_one(spec: dict[str, Any], value: str | None) -> None:
    """Schedulers take a pod without the label for every part of a request, and one with an empty label for none."""
    labels = pod_of(**spec)["metadata"]["labels"]
    assert ("llm-d.ai/role" in labels, labels.get("llm-d.ai/role")) == (value is not None, value)


def test_other_labels_may_be_empty() -> None:
    assert pod_of(pod={"labels": {"example.com/canary": ""}})["metadata"]["labels"]["example.com/canary"] == ""


def test_without_a_word_the_operators_image_settings_hold() -> None:
    options = Options("ghostfleet-sim:0.1.0", ("t",), image_pull_policy="IfNotPresent")
    (container,) = pod_of(options)["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("ghostfleet-sim:0.1.0", "IfNotPresent")
    assert "imagePullPolicy" not in pod_of()["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, {"requests": {"cpu": "50m", "memory": "96Mi"}}),
        ({"requests": {"cpu": "2"}}, {"requests": {"cpu": "2", "memory": "96Mi"}}),
        (
            {"limits": {"cpu": "10m", "memory": "1Gi"}},
            {"requests": {"cpu": "10m", "memory": "96Mi"}, "limits": {"cpu": "10m", "memory": "1Gi"}},
        ),
    ],
)
def test_a_pod_asks_for_little_and_never_for_more_than_its_limit(given_: Any, expected: Any) -> None:
    assert pod_of(pod={"resources": given_})["spec"]["containers"][0]["resources"] == expected


def test_ports_of_kv_events_are_those_that_are_bound() -> None:
    """On the container and the headless Service, under names of their own; a server that connects has none."""
    bound = {"enableKvCacheEvents": True, "replayEndpoint": "tcp://*:5600"}
    connecting = {"enableKvCacheEvents": True, "endpoint": "tcp://epp:5557"}
    off = {"endpoint": "tcp://*:6000"}
    for events, expected in ((bound, {"kv-events": 5557, "kv-replay": 5600}), (connecting, {}), (off, {})):
        (container,) = pod_of(kvEvents=events)["spec"]["containers"]
        assert {port["name"]: port["containerPort"] for port in container["ports"][2:]} == expected
        found = made(kvEvents=events)
        headless, service = found["Service", "alpha-headless"]["spec"], found["Service", "alpha"]["spec"]
        assert {p["name"]: (p["port"], p["targetPort"]) for p in headless["ports"][1:]} == {
            name: (port, name) for name, port in expected.items()
        }
        assert len(service["ports"]) == 1


@pytest.mark.parametrize(
    ("default", "image", "expected"),
    [
        ("sim:1", {}, "sim:1"),
        ("host:5000/a/sim", {}, "host:5000/a/sim"),
        ("host:5000/a/sim", {"tag": "2"}, "host:5000/a/sim:2"),
        ("host:5000/a/sim:1", {"tag": "2"}, "host:5000/a/sim:2"),
        ("sim:1", {"repository": "other/sim"}, "other/sim:1"),
        ("sim:1", {"digest": DIGEST}, f"sim@{DIGEST}"),
        ("sim:1", {"repository": "other", "tag": "3", "digest": DIGEST}, f"other@{DIGEST}"),
        (f"sim:1@{DIGEST}", {}, f"sim:1@{DIGEST}"),
        (f"sim:1@{DIGEST}", {"tag": "2"}, "sim:2"),
        (f"sim@{DIGEST}", {"repository": "other"}, "other"),
    ],
)
def test_parts_of_the_image_can_be_replaced(default: str, image: dict[str, str], expected: str) -> None:
    assert image_reference(default, Image(**image)) == expected


def test_services_select_by_the_label_and_the_headless_one_lists_ready_pods_only() -> None:
    found = made(networking={"serviceType": "NodePort"})
    service, headless = found["Service", "alpha"]["spec"], found["Service", "alpha-headless"]["spec"]
    assert (service["type"], headless["type"], headless["clusterIP"]) == ("NodePort", "ClusterIP", "None")
    assert headless["publishNotReadyAddresses"] is False
    for spec in (service, headless):
        assert [(port["port"], port["targetPort"]) for port in spec["ports"]] == [(8000, "http")]
        assert ",".join(f"{k}={v}" for k, v in spec["selector"].items()) == selector("alpha")
        assert spec["selector"].items() <= pod_of()["metadata"]["labels"].items()


def test_annotations_of_the_service_are_on_the_one_that_clients_use() -> None:
    given = {"lb.example.com/internal": "true"}
    found = made(networking={"serviceAnnotations": given})
    assert found["Service", "alpha"]["metadata"]["annotations"] == given
    assert "annotations" not in found["Service", "alpha-headless"]["metadata"]


def test_only_a_child_that_our_server_controls_is_ours() -> None:
    child = made()["Deployment", "alpha"]
    owner = child["metadata"]["ownerReferences"][0]
    assert is_ours(child, UID)
    assert not is_ours(child, "another")
    assert not is_ours({"metadata": {}}, UID)
    assert not is_ours({"metadata": {"ownerReferences": [owner | {"controller": False}]}}, UID)


def pod(name: str, address: str | None = "10.0.0.1", ready: bool = True, **labels: str) -> Replica:
    return Replica(name, address, ready, labels)


def endpoints(*pods: Replica) -> list[dict[str, Any]]:
    text = endpoints_config_map(planned(), pods)["data"]["endpoints.yaml"]
    found: list[dict[str, Any]] = yaml.safe_load(text)["endpoints"]
    assert json.loads(text)["endpoints"] == found
    return found


def test_the_endpoints_file_is_what_file_discovery_reads() -> None:
    first = Replica("alpha-1", "10.0.0.7", True, {"llm-d.ai/role": "decode", "pod-template-hash": "x"})
    assert endpoints(pod("alpha-2", "10.0.0.8"), first) == [
        {
            "name": "alpha-1",
            "namespace": "lab",
            "address": "10.0.0.7",
            "port": "8000",
            "labels": {"llm-d.ai/role": "decode"},
        },
        {"name": "alpha-2", "namespace": "lab", "address": "10.0.0.8", "port": "8000", "labels": {}},
    ]


def test_only_ready_pods_with_an_ipv4_address_are_endpoints() -> None:
    assert endpoints(pod("a", None), pod("b", ready=False), pod("c", "fd00::1"), pod("d", "nonsense")) == []


def test_a_list_too_long_for_a_config_map_is_cut_and_says_so() -> None:
    labels = {f"example.com/{number}-{'k' * 50}": "v" * 63 for number in range(32)}
    child = endpoints_config_map(planned(), tuple(pod(f"p{number:04}", **labels) for number in range(1000)))
    text = child["data"]["endpoints.yaml"]
    left_out = int(child["metadata"]["annotations"]["ghostfleet.dev/endpoints-left-out"])
    assert len(text.encode()) < 2**20
    assert len(json.loads(text)["endpoints"]) == 1000 - left_out > 0


@settings(max_examples=50)
@given(st.permutations([pod(name, f"10.0.0.{number}") for number, name in enumerate("abcd")]))
def test_the_order_in_which_pods_are_seen_does_not_matter(pods: list[Replica]) -> None:
    assert [endpoint["name"] for endpoint in endpoints(*pods)] == ["a", "b", "c", "d"]


# --- data-parallel ranks -------------------------------------------------------------------------

RANKS: dict[str, Any] = {
    "dataParallelSize": 3,
    "kvEvents": {"enableKvCacheEvents": True, "replayEndpoint": "tcp://*:5600"},
}
EVENT_PORTS = {
    "kv-events": 5557,
    "kv-replay": 5600,
    "kv-events-1": 5558,
    "kv-replay-1": 5601,
    "kv-events-2": 5559,
    "kv-replay-2": 5602,
}


def container_ports(**spec: Any) -> dict[str, int]:
    (container,) = pod_of(**spec)["spec"]["containers"]
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def service_ports(name: str, **spec: Any) -> dict[str, int]:
    ports = made(**spec)["Service", name]["spec"]["ports"]
    assert [port["targetPort"] for port in ports] == [port["name"] for port in ports]
    return {port["name"]: port["port"] for port in ports}


def test_ranks_behind_one_port_have_ports_for_their_events_alone() -> None:
    """A subscriber finds those of each rank; nobody is told of ports, because one takes all requests."""
    assert container_ports(**RANKS) == {"http": 8000, "admin": 9101, **EVENT_PORTS}
    assert service_ports("alpha", **RANKS) == {"http": 8000}
    assert service_ports("alpha-headless", **RANKS) == {"http": 8000, **EVENT_PORTS}
    assert "llm-d.ai/active-ports" not in pod_of(**RANKS)["metadata"]["annotations"]


def test_ranks_with_ports_are_told_to_endpoint_pickers() -> None:
    """In pods, in both Services, and in the annotation that endpoint pickers read."""
    ranks = {**RANKS, "dataParallelPortPerRank": True}
    api = {"http": 8000, "http-1": 8001, "http-2": 8002}
    assert container_ports(**ranks) == {**api, "admin": 9101, **EVENT_PORTS}
    assert service_ports("alpha", **ranks) == api
    assert service_ports("alpha-headless", **ranks) == {**api, **EVENT_PORTS}
    assert pod_of(**ranks)["metadata"]["annotations"]["llm-d.ai/active-ports"] == "8000,8001,8002"
    chosen = pod_of(**ranks, pod={"annotations": {"llm-d.ai/active-ports": "8001"}})
    assert chosen["metadata"]["annotations"]["llm-d.ai/active-ports"] == "8001"


@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_the_most_ranks_there_can_be_make_valid_objects(version: str) -> None:
    """Names of ports have at most 15 characters, and each is there once."""
    most = {**RANKS, "dataParallelSize": 8, "dataParallelPortPerRank": True}
    for child in children(planned(**most), OPTIONS):
        kubernetes_validate.validate(child, version, strict=True)
    ports = container_ports(**most)
    assert len(ports) == len(set(ports.values())) == 8 + 1 + 16
    assert max(map(len, ports)) <= 15


def test_each_port_of_a_pod_is_an_endpoint() -> None:
    """As the EPP names those of a pool with several ports; a pod with one keeps its name. Ports are strings."""
    pods = (
        Replica("a", "10.0.0.1", True, {"app": "x"}, ports=(8000, 8002), has_ranks=True),
        Replica("b", "10.0.0.2", True),
        Replica("c", "10.0.0.3", False, ports=(8000, 8001), has_ranks=True),
    )
    text = endpoints_config_map(planned(), pods)["data"]["endpoints.yaml"]
    assert [(e["name"], e["address"], e["port"]) for e in yaml.safe_load(text)["endpoints"]] == [
        ("a-rank-0", "10.0.0.1", "8000"),
        ("a-rank-2", "10.0.0.1", "8002"),
        ("b", "10.0.0.2", "8000"),
    ]
