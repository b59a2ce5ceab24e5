"""What the chart renders, and the pods that come of it, as a real API server takes them; nothing of it is kept."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.apiserver.cluster import Cluster, Json, Jsons, Rejected, eventually, server
from tests.apiserver.conftest import StartOperator
from tests.helm import helm

from ghostfleet_operator.reconcile.api import DEPLOYMENT

CHART = Path(__file__).parents[2] / "charts" / "ghostfleet"
PLURALS = {
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
} | {
    kind: ("/apis/rbac.authorization.k8s.io/v1", f"{kind.lower()}s")
    for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
}


def rendered(folder: Path, values: Json) -> Jsons:
    given = folder / "values.json"
    given.write_text(json.dumps(values))
    command = [str(helm()), "template", "gf", str(CHART), "--namespace", "default", "--kube-version", "1.34.0"]
    text = subprocess.run(
        [*command, "--values", str(given)],
        check=True,
        capture_output=True,
        text=True,
        env={"HOME": str(folder), "PATH": os.defpath},
    ).stdout
    return [tree for tree in yaml.safe_load_all(text) if tree]


def tried(cluster: Cluster, obj: Json, namespace: str | None) -> Json:
    """The object as the API server would make it."""
    root, plural = PLURALS[obj["kind"]] if obj["kind"] != "Pod" else ("/api/v1", "pods")
    where = f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"
    return cluster.call("POST", where, obj, dryRun="All", fieldValidation="Strict")


@pytest.mark.parametrize(
    "values",
    [
        {"networkPolicy": {"enabled": True, "simulatorNamespaces": ["default"]}},
        {
            "watchNamespaces": ["default"],
            "networkPolicy": {
                "enabled": True,
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
                "apiServer": {"ports": [6443], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]},
                "extraEgress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
            },
        },
    ],
    ids=["cluster-wide", "namespaced"],
)
def test_an_api_server_takes_all_that_the_chart_renders(cluster: Cluster, tmp_path: Path, values: Json) -> None:
    objects = [tree for tree in rendered(tmp_path, values) if tree["kind"] != "CustomResourceDefinition"]
    kinds = set()
    for tree in objects:
        kinds.add(tree["kind"])
        made = tried(cluster, tree, tree["metadata"].get("namespace"))
        assert made["metadata"]["uid"]
    assert {"NetworkPolicy", "PodDisruptionBudget", "Deployment", "Role"} <= kinds
    assert sum(tree["kind"] == "NetworkPolicy" for tree in objects) == 2


def pod_of(deployment: Json, namespace: str) -> Json:
    template = copy.deepcopy(deployment["spec"]["template"])
    meta = {"name": "tried", "namespace": namespace, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}


def test_pods_of_the_operator_and_of_servers_are_allowed_where_security_is_restricted(
    cluster: Cluster, start_operator: StartOperator, namespace: str, tmp_path: Path
) -> None:
    """And that it is enforced there shows by the same pods with less."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.call(
        "PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}}, "application/merge-patch+json"
    )
    (operator,) = [tree for tree in rendered(tmp_path, {}) if tree["kind"] == "Deployment"]
    with start_operator("--namespace", namespace):
        cluster.create(server(namespace, "one"))
        simulator = eventually(lambda: cluster.get(DEPLOYMENT, namespace, "one"))

    for deployment in (operator, simulator):
        pod = pod_of(deployment, namespace)
        # There is no controller that makes the account which is asked for, and no need for one here.
        pod["spec"].pop("serviceAccountName", None)
        tried(cluster, pod, namespace)
        for loosened in without(pod):
            with pytest.raises(Rejected, match="violates PodSecurity"):
                tried(cluster, loosened, namespace)
    spec = simulator["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False, "a simulated server has no business with the API server"
    for each in (operator["spec"]["template"]["spec"], spec):
        assert each["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def without(pod: Json) -> list[Json]:
    """The pod with one of its safeguards less each."""

    def less(change: Any) -> Json:
        other = copy.deepcopy(pod)
        change(other["spec"], other["spec"]["containers"][0]["securityContext"])
        return other

    return [
        less(lambda spec, _: spec["securityContext"].pop("runAsNonRoot")),
        less(lambda spec, _: spec["securityContext"].pop("seccompProfile")),
        less(lambda _, container: container.pop("capabilities")),
        less(lambda _, container: container.pop("allowPrivilegeEscalation")),
    ]
