"""The Helm chart, linted and rendered by a real Helm."""

from __future__ import annotations

import base64
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ghostfleet_operator.cli.operator import _parser
from ghostfleet_operator.kinds.crd import KINDS, crd
from ghostfleet_operator.plan.naming import SERVER_LABEL
from ghostfleet_operator.resolve import ADMIN_PORT
from ghostfleet_simulator.files import parse_documents

from .conftest import CHART, ROOT, Render, of_kind, one

EVERYTHING: dict[str, Any] = {
    "fullnameOverride": "fleet",
    "replicas": 3,
    "leaderElection": {"leaseDuration": 60, "renewDeadline": 40.5, "retryPeriod": 15},
    "commonLabels": {"team": "infra"},
    "image": {"repository": "registry.example/op", "tag": "2", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "ours"}],
    "simulator": {
        "image": {"repository": "registry.example/sim", "digest": "sha256:" + "b" * 64},
        "imagePullSecrets": [{"name": "theirs"}],
    },
    "watchNamespaces": ["one", "two"],
    "crds": {"keep": False},
    "serviceAccount": {"name": "fleet-sa", "annotations": {"a": "b"}},
    "adminKey": {"existingSecret": "given-key"},
    "log": {"level": "debug", "format": "text"},
    "metrics": {"service": {"annotations": {"a": "b"}}},
    "networkPolicy": {
        "enabled": True,
        "simulatorNamespaces": ["three", "one"],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "apiServer": {"ports": [6443], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
        "extraEgress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
    },
    "extraArgs": ["--workers=4"],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
    "podLabels": {"x": "y"},
    "podAnnotations": {"x": "y"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "priorityClassName": "high",
}


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_chart_is_free_of_lint_and_renders_valid_objects(
    run: Callable[..., subprocess.CompletedProcess[str]], render: Render, values: dict[str, Any]
) -> None:
    linted = run("lint", "--strict", **values)
    assert linted.returncode == 0, linted.stdout
    for tree in render(**values):
        kubernetes_validate.validate(tree, "1.34", strict=True)
        labels = tree["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "ghostfleet"
        assert values.get("commonLabels", {}).items() <= labels.items()


def test_the_charts_crds_are_the_generated_ones(render: Render) -> None:
    objects = render(clusterProfiles=True)
    found = {tree["metadata"]["name"]: tree for tree in of_kind(objects, "CustomResourceDefinition")}
    files = {tree["metadata"]["name"]: tree for tree in map(yaml.safe_load, map(Path.read_text, crd_files()))}
    assert {name: tree["spec"] for name, tree in found.items()} == {name: tree["spec"] for name, tree in files.items()}
    assert {name: tree["spec"] for name, tree in files.items()} == {
        tree["metadata"]["name"]: tree["spec"] for tree in map(crd, KINDS)
    }


def crd_files() -> list[Path]:
    return sorted((ROOT / "crds").glob("*.yaml"))


def test_crds_can_be_kept_or_left_to_somebody_else(render: Render) -> None:
    kept = of_kind(render(), "CustomResourceDefinition")
    assert [tree["metadata"]["annotations"] for tree in kept] == [{"helm.sh/resource-policy": "keep"}] * 2
    loose = of_kind(render(crds={"keep": False}), "CustomResourceDefinition")
    assert all("annotations" not in tree["metadata"] for tree in loose)
    assert not of_kind(render(crds={"enabled": False}), "CustomResourceDefinition")


def test_a_namespaced_installation_makes_nothing_cluster_wide(render: Render) -> None:
    values = {"watchNamespaces": ["one", "two"], "crds": {"enabled": False}, "rbac": {"userRoles": False}}
    objects = render(**values)
    assert all("namespace" in tree["metadata"] for tree in objects)
    assert [tree["metadata"]["namespace"] for tree in of_kind(objects, "Role")] == ["one", "two", "system"]
    arguments = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [argument for argument in arguments if argument.startswith("--namespace")] == [
        "--namespace=one",
        "--namespace=two",
    ]


def operator_rules(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    role = next(
        tree for tree in objects if tree["kind"] == "ClusterRole" and tree["metadata"]["name"].endswith("-operator")
    )
    rules: list[dict[str, Any]] = role["rules"]
    return rules


def test_the_operator_may_do_little(render: Render) -> None:
    """No wildcard anywhere; Secrets are written and never read; pods are read and never written."""
    rules = operator_rules(render())
    verbs: dict[str, set[str]] = {}
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        for resource in rule["resources"]:
            verbs.setdefault(resource, set()).update(rule["verbs"])
    assert verbs["secrets"] == {"create", "patch"}
    assert verbs["pods"] == {"list", "watch"}
    assert verbs["simulatedmodelservers"] == {"get", "list", "watch"}
    assert verbs["simulatedmodelservers/status"] == {"patch"}
    assert not {"pods/exec", "pods/proxy", "namespaces", "nodes", "customresourcedefinitions"} & verbs.keys()


def test_roles_in_namespaces_are_those_of_the_cluster(render: Render) -> None:
    namespaced = of_kind(render(watchNamespaces=["one"]), "Role")
    assert [role["rules"] for role in namespaced if role["metadata"]["namespace"] == "one"] == [
        operator_rules(render())
    ]


def test_operators_stand_by_for_each_other(render: Render) -> None:
    """Two of them on different nodes if there are, replaced and drained one by one, with a right to one lease only."""
    objects = render()
    deployment = one(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    pods = deployment["template"]["metadata"]["labels"]
    apart = deployment["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = apart["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= pods.items()
    budget = one(objects, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]) == (1, deployment["selector"])
    (role,) = of_kind(objects, "Role")
    name = one(objects, "Deployment")["metadata"]["name"]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in role["rules"]] == [
        (["create"], None),
        (["get", "update"], [name]),
    ]
    assert f"--leader-elect-resource-name={name}" in deployment["template"]["spec"]["containers"][0]["args"]


def test_a_single_operator_has_no_budget_that_would_block_drains(render: Render) -> None:
    assert not of_kind(render(replicas=1), "PodDisruptionBudget")


def test_profiles_of_the_cluster_come_with_their_definition_flag_and_rights_or_not_at_all(render: Render) -> None:
    def parts(objects: list[dict[str, Any]]) -> tuple[bool, ...]:
        crds = [tree["metadata"]["name"] for tree in of_kind(objects, "CustomResourceDefinition")]
        arguments = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
        roles = {tree["metadata"]["name"]: tree for tree in of_kind(objects, "ClusterRole")}
        return (
            "clusterlatencyprofiles.ghostfleet.dev" in crds,
            "--cluster-profiles" in arguments,
            *("clusterlatencyprofiles" in json.dumps(roles[f"gf-ghostfleet-{n}"]) for n in ("operator", "view")),
            "gf-ghostfleet-cluster-profiles" in roles,
        )

    assert parts(render(clusterProfiles=True)) == (True,) * 5
    assert parts(render()) == (False,) * 5


def test_inference_pools_come_with_their_flag_and_rights_or_not_at_all(render: Render) -> None:
    def parts(objects: list[dict[str, Any]]) -> tuple[bool, bool]:
        arguments = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
        roles = {tree["metadata"]["name"]: tree for tree in of_kind(objects, "ClusterRole")}
        return "--inference-pools" in arguments, "inferencepools" in json.dumps(roles["gf-ghostfleet-operator"])

    assert parts(render(inferencePools=True)) == (True, True)
    assert parts(render()) == (False, False)


def test_who_may_edit_in_a_namespace_may_not_edit_profiles_of_the_cluster(render: Render) -> None:
    roles = {tree["metadata"]["name"]: tree for tree in of_kind(render(clusterProfiles=True), "ClusterRole")}
    assert "clusterlatencyprofiles" not in json.dumps(roles["gf-ghostfleet-edit"])
    labels = roles["gf-ghostfleet-cluster-profiles"]["metadata"]["labels"]
    assert not [label for label in labels if label.startswith("rbac.authorization.k8s.io/")]


def test_profiles_of_the_cluster_do_not_go_with_an_operator_of_some_namespaces(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run("template", "gf", clusterProfiles=True, watchNamespaces=["one"])
    assert done.returncode != 0
    assert "leave watchNamespaces empty, or clusterProfiles false" in done.stderr


def test_network_policies_let_through_what_is_needed_and_no_more(render: Render) -> None:
    """The admin port is for the operator; every other port of a simulated server is for everybody."""
    assert not of_kind(render(), "NetworkPolicy")
    objects = render(**EVERYTHING)
    operator, *simulators = of_kind(objects, "NetworkPolicy")
    pods = one(objects, "Deployment")["spec"]["template"]
    assert operator["spec"]["podSelector"] == one(objects, "Deployment")["spec"]["selector"]
    (metrics,) = operator["spec"]["ingress"]
    assert [port["port"] for port in metrics["ports"]] == [
        port["name"] for port in pods["spec"]["containers"][0]["ports"]
    ]
    assert metrics["from"] == EVERYTHING["networkPolicy"]["metricsFrom"]
    api_server, admin, extra = operator["spec"]["egress"]
    assert api_server == {"ports": [{"port": 6443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}
    servers = {"matchExpressions": [{"key": SERVER_LABEL, "operator": "Exists"}]}
    assert admin["ports"] == [{"port": ADMIN_PORT, "protocol": "TCP"}]
    assert admin["to"] == [{"namespaceSelector": {}, "podSelector": servers}]
    assert [extra] == EVERYTHING["networkPolicy"]["extraEgress"]

    assert [tree["metadata"]["namespace"] for tree in simulators] == ["one", "two", "three"]
    for tree in simulators:
        assert tree["spec"]["podSelector"] == servers
        everybody, guarded = tree["spec"]["ingress"]
        open_to_all = [n for port in everybody["ports"] for n in range(port["port"], port["endPort"] + 1)]
        assert sorted([*open_to_all, ADMIN_PORT]) == list(range(1, 65536))
        assert "from" not in everybody
        (peer,) = guarded["from"]
        assert [port["port"] for port in guarded["ports"]] == [ADMIN_PORT]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "system"}
        assert peer["podSelector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()


def test_prometheus_finds_the_metrics_of_every_operator(render: Render) -> None:
    objects = render(metrics={"serviceMonitor": {"enabled": True, "labels": {"release": "prom"}, "interval": "30s"}})
    (service,) = of_kind(objects, "Service")
    monitor = one(objects, "ServiceMonitor")
    container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert [port["name"] for port in container["ports"]] == [service["spec"]["ports"][0]["targetPort"]]
    assert service["spec"]["selector"] == one(objects, "Deployment")["spec"]["selector"]["matchLabels"]
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["interval"]) == (service["spec"]["ports"][0]["name"], "30s")
    assert not of_kind(render(metrics={"service": {"enabled": False}}), "Service")


def test_bindings_name_the_account_that_the_operator_runs_as(render: Render) -> None:
    for values in ({}, EVERYTHING, {"serviceAccount": {"create": False}}):
        objects = render(**values)
        account = one(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
        bindings = [tree for tree in objects if tree["kind"] in ("ClusterRoleBinding", "RoleBinding")]
        assert bindings
        for binding in bindings:
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "system"}]


def test_the_operator_is_restricted_and_gets_what_it_needs(render: Render) -> None:
    objects = render()
    deployment = one(objects, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert deployment["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
    assert container["image"] == "ghostfleet-operator:0.1.0"
    assert container["env"] == [{"name": "GHOSTFLEET_SIMULATOR_IMAGE", "value": "ghostfleet-sim:0.1.0"}]
    (volume,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert volume["secretName"] == one(objects, "Secret")["metadata"]["name"]


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_arguments_are_ones_that_the_operator_takes(render: Render, values: dict[str, Any]) -> None:
    (container,) = one(render(**values), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "operator"
    options = _parser({variable["name"]: variable.get("value", "") for variable in container["env"]}).parse_args(
        container["args"][1:]
    )
    assert options.leader_elect
    assert options.leader_elect_resource_namespace == "system"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert options.key_file == f"{mounts['key']}/key"
    assert options.health_port == container["ports"][0]["containerPort"]
    if values:
        assert options.simulator_image == "registry.example/sim@sha256:" + "b" * 64
        assert (options.namespaces, options.image_pull_secrets, options.workers) == (["one", "two"], ["theirs"], 4)


def test_a_key_is_made_unless_one_is_given(render: Render) -> None:
    key = base64.b64decode(one(render(), "Secret")["data"]["key"])
    assert len(key) >= 16
    assert not of_kind(render(adminKey={"existingSecret": "given"}), "Secret")


def test_digests_win_over_tags(render: Render) -> None:
    digest = "sha256:" + "c" * 64
    (container,) = one(render(image={"tag": "1", "digest": digest}), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["image"] == f"ghostfleet-operator@{digest}"


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"image": {"tga": "1"}}, "'tga' not allowed"),
        ({"replica": 2}, "'replica' not allowed"),
        ({"log": {"level": "loud"}}, "/log/level"),
        ({"watchNamespaces": ["Not A Name"]}, "/watchNamespaces/0"),
        ({"crds": {"enabled": "yes"}}, "/crds/enabled"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest"),
    ],
)
def test_a_value_that_is_misspelt_or_wrong_is_refused_by_name(
    run: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any], part: str
) -> None:
    done = run("template", "gf", **values)
    assert done.returncode != 0
    assert part in done.stderr.replace('"', "'")


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"leaderElection": {"renewDeadline": 15}}, "leaseDuration must be longer than leaderElection.renewDeadline"),
        ({"leaderElection": {"retryPeriod": 9}}, "renewDeadline must be longer than 1.2 times"),
        (
            {"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}},
            "metrics.serviceMonitor finds the operator by metrics.service",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(
    run: Callable[..., subprocess.CompletedProcess[str]], values: dict[str, Any], part: str
) -> None:
    """Rather than an operator that does not start, or is never scraped."""
    done = run("template", "gf", **values)
    assert done.returncode != 0
    assert part in done.stderr


def test_labels_of_ones_own_take_no_pod_from_the_operator(
    run: Callable[..., subprocess.CompletedProcess[str]], render: Render
) -> None:
    """No key is there twice, which some tools refuse; selectors go on to match; the special comes before the common."""
    values: dict[str, Any] = {
        "commonLabels": {"app.kubernetes.io/part-of": "platform", "release": "common"},
        "podLabels": {"app.kubernetes.io/name": "mine", "release": "pod"},
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "monitor"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "rule"}},
            "dashboard": {"enabled": True, "labels": {"release": "dashboard"}},
        },
    }
    parse_documents(run("template", "gf", **values).stdout)  # refuses keys that are there twice
    objects = render(**values)
    deployment = one(objects, "Deployment")
    pods = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pods.items()
    assert (pods["release"], pods["app.kubernetes.io/part-of"]) == ("pod", "platform")
    assert deployment["metadata"]["labels"]["release"] == "common"
    assert one(objects, "ServiceMonitor")["metadata"]["labels"]["release"] == "monitor"
    assert one(objects, "PrometheusRule")["metadata"]["labels"]["release"] == "rule"


def test_every_value_has_a_comment_and_a_place_in_the_schema() -> None:
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(yaml.safe_load(text)) == set(schema["properties"]) - {"global"}
    for block in text.split("\n\n")[1:]:
        assert block.lstrip().startswith("#") or "# --" in block, block


def test_the_version_of_the_chart_is_that_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
