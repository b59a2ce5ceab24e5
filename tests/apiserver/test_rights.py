"""The chart's roles are what the operator needs: with them nothing is refused, and nothing in them goes unused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.apiserver import audit
from tests.apiserver.cluster import Cluster, cluster_profile, eventually, profile, server
from tests.apiserver.conftest import StartOperator, with_inference_pools
from tests.apiserver.control_plane import ControlPlane
from tests.helm import helm

from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.reconcile.api import (
    CLUSTER_PROFILE,
    CONFIG_MAP,
    DEPLOYMENT,
    INFERENCE_POOL,
    LEASE,
    PROFILE,
    SERVER,
    SERVICE,
)

CHART = Path(__file__).parents[2] / "charts" / "ghostfleet"
OPERATOR = "gf-ghostfleet-operator"
ROLES = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")

Right = tuple[str, str, str]
"""Group, resource and verb."""


def rendered(folder: Path, namespaces: list[str], **values: bool) -> list[dict[str, Any]]:
    """The roles, bindings and account of release `gf` in namespace `system`."""
    command = [helm(), "template", "gf", CHART, "--namespace", "system", "--kube-version", "1.34.0"]
    command += ["--set", "rbac.userRoles=false", "--set-json", f"watchNamespaces={json.dumps(namespaces)}"]
    for name, value in values.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    text = subprocess.run(
        command, check=True, capture_output=True, text=True, env={"HOME": str(folder), "PATH": os.defpath}
    ).stdout
    return [tree for tree in yaml.safe_load_all(text) if tree and tree["kind"] in (*ROLES, "ServiceAccount")]


@pytest.fixture(scope="module")
def audited(cluster: Cluster, plane: ControlPlane) -> tuple[Cluster, ControlPlane]:
    """An API server that writes down every request, and asks for every right there is to ask for."""
    for name in ("system", "first", "second", "third", "fourth", "fifth"):
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return cluster, plane


def installed(cluster: Cluster, plane: ControlPlane, objects: list[dict[str, Any]]) -> tuple[Path, str]:
    """A kubeconfig for the account of the chart once its roles are there, and the name of its user."""
    plural = {"ServiceAccount": ("/api/v1", "serviceaccounts")} | {
        kind: ("/apis/rbac.authorization.k8s.io/v1", f"{kind.lower()}s") for kind in ROLES
    }
    for tree in objects:
        root, resource = plural[tree["kind"]]
        where = tree["metadata"].get("namespace")
        cluster.call("POST", f"{root}/namespaces/{where}/{resource}" if where else f"{root}/{resource}", tree)
    (account,) = [tree["metadata"]["name"] for tree in objects if tree["kind"] == "ServiceAccount"]
    path = f"/api/v1/namespaces/system/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": cluster.call("POST", path, request)["status"]["token"]}
    kubeconfig = plane.folder / "kubeconfig-of-the-account"
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig, f"system:serviceaccount:system:{account}"


def removed(cluster: Cluster, objects: list[dict[str, Any]]) -> None:
    for tree in objects:
        root = "/api/v1" if tree["kind"] == "ServiceAccount" else "/apis/rbac.authorization.k8s.io/v1"
        where = tree["metadata"].get("namespace")
        scope = f"/namespaces/{where}" if where else ""
        cluster.call("DELETE", f"{root}{scope}/{tree['kind'].lower()}s/{tree['metadata']['name']}")


def rights_for(event: dict[str, Any]) -> set[Right]:
    """The rights that a request needed: applying an object that is not there takes the one to create, too."""
    ref = event["objectRef"]
    resource = ref["resource"] + (f"/{ref['subresource']}" if "subresource" in ref else "")
    created = event["verb"] == "patch" and event["responseStatus"]["code"] == 201
    return {(ref.get("apiGroup", ""), resource, verb) for verb in {event["verb"]} | ({"create"} if created else set())}


def granted(objects: list[dict[str, Any]]) -> set[Right]:
    return {
        (group, resource, verb)
        for tree in objects
        for rule in tree.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def live_through_everything(cluster: Cluster, namespace: str) -> None:
    """All that makes the operator call the API: birth, change, drift, loss, leftovers, deletion."""
    cluster.create(profile(namespace, "shared"))
    created = cluster.create(server(namespace, "one", profile=None, profileRef={"name": "shared"}))
    uid = created["metadata"]["uid"]
    names = ChildNames.of("one", uid)
    eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, names.deployment))
    first = eventually(lambda: cluster.status(namespace, "one")["profile"]["desired"])
    eventually(lambda: cluster.must_get(PROFILE, namespace, "shared")["status"]["hash"])

    cluster.merge(PROFILE, namespace, "shared", {"spec": {"simple": {"timeToFirstToken": "70ms"}}})
    cluster.merge(SERVER, namespace, "one", {"spec": {"replicas": 4, "networking": {"serviceType": "NodePort"}}})
    eventually(lambda: _is(cluster.status(namespace, "one")["profile"]["desired"]["hash"] != first["hash"]))
    eventually(lambda: _is(cluster.must_get(DEPLOYMENT, namespace, "one")["spec"]["replicas"] == 4))
    eventually(lambda: _is(cluster.must_get(SERVICE, namespace, "one")["spec"]["type"] == "NodePort"))

    lost = ((CONFIG_MAP, names.config), (DEPLOYMENT, names.deployment), (SERVICE, names.service))
    for kind, name in (*lost, lost[-1]):  # the same twice, so that its Event counts up
        old = cluster.must_get(kind, namespace, name)["metadata"]["uid"]
        cluster.delete(kind, namespace, name)
        eventually(lambda k=kind, n=name, o=old: _is(cluster.must_get(k, namespace, n)["metadata"]["uid"] != o))

    # Children that an earlier version of the operator might have made are cleared away.
    leftovers = ((CONFIG_MAP, names.config), (SERVICE, names.headless), (DEPLOYMENT, names.deployment))
    for kind, name in leftovers:
        found = cluster.must_get(kind, namespace, name)
        meta = {key: found["metadata"][key] for key in ("labels", "ownerReferences", "namespace")}
        content = {key: value for key, value in found.items() if key != "status"}
        cluster.create({**content, "metadata": meta | {"name": f"{name}-old"}})
    eventually(lambda: _is(all(cluster.get(kind, namespace, f"{name}-old") is None for kind, name in leftovers)))
    cluster.delete(SERVER, namespace, "one")


def live_with_a_profile_of_the_cluster(cluster: Cluster, namespace: str, *, allowed: bool, reason: str) -> None:
    """Where it is allowed it is used; where not, the server says why and waits for a person."""
    cluster.create(cluster_profile("global"))
    reference = {"kind": "ClusterLatencyProfile", "name": "global"}
    cluster.create(server(namespace, "two", profile=None, profileRef=reference))
    if allowed:
        eventually(lambda: cluster.must_get(DEPLOYMENT, namespace, "two"))
        eventually(lambda: _is(cluster.must_get(CLUSTER_PROFILE, None, "global")["status"]["usedBy"] == 1))
    else:
        stalled = eventually(lambda: cluster.condition(namespace, "two", "Stalled") or None)
        assert stalled["reason"] == "ProfileNotEnabled"
        assert reason in stalled["message"]
        assert cluster.get(DEPLOYMENT, namespace, "two") is None
    cluster.delete(SERVER, namespace, "two")
    cluster.delete(CLUSTER_PROFILE, None, "global")


def live_with_an_inference_pool(cluster: Cluster, namespace: str) -> None:
    """Made, changed by somebody, made under another name, unwanted."""
    cluster.create(server(namespace, "three", networking={"inferencePool": {}}))
    made = eventually(lambda: cluster.get(INFERENCE_POOL, namespace, "three"))
    change = {"spec": {"endpointPickerRef": {"failureMode": "FailOpen"}}}
    cluster.merge(INFERENCE_POOL, namespace, "three", change)
    eventually(lambda: _is(cluster.must_get(INFERENCE_POOL, namespace, "three")["spec"] == made["spec"]))
    cluster.merge(SERVER, namespace, "three", {"spec": {"networking": {"inferencePool": None}}})
    eventually(lambda: _is(cluster.get(INFERENCE_POOL, namespace, "three") is None))
    cluster.delete(SERVER, namespace, "three")


def tell(what: str, rights: Counter[Right]) -> None:
    print(f"{len(rights)} rights {what}, with counts:")  # noqa: T201 - both lists are part of the result
    for (group, resource, verb), count in sorted(rights.items()):
        print(f"  {verb:<8}{f'{resource}.{group}'.rstrip('.'):<50}{count:>5}")  # noqa: T201


def _is(holds: bool) -> bool:
    assert holds
    return True


@pytest.mark.parametrize(
    ("namespaces", "cluster_profiles", "inference_pools", "reason"),
    [
        ([], False, False, "the operator was not told (--cluster-profiles) to use a ClusterLatencyProfile"),
        (["first", "second"], False, False, "the operator works in some namespaces only"),
        ([], True, False, ""),
        (["fifth"], False, True, "the operator works in some namespaces only"),
    ],
    ids=["cluster-wide", "namespaced", "cluster-profiles", "inference-pools"],
)
def test_the_roles_of_the_chart_are_enough_and_not_more(
    audited: tuple[Cluster, ControlPlane],
    start_operator: StartOperator,
    tmp_path: Path,
    namespaces: list[str],
    cluster_profiles: bool,
    inference_pools: bool,
    reason: str,
) -> None:
    cluster, plane = audited
    objects = rendered(tmp_path, namespaces, clusterProfiles=cluster_profiles, inferencePools=inference_pools)
    kubeconfig, user = installed(cluster, plane, objects)
    arguments = [part for name in namespaces for part in ("--namespace", name)]
    arguments += ["--cluster-profiles"] if cluster_profiles else []
    arguments += ["--inference-pools"] if inference_pools else []
    with contextlib.ExitStack() as stack:
        stack.callback(removed, cluster, objects)
        if inference_pools:
            stack.enter_context(with_inference_pools(cluster))
        stack.callback(cluster.delete, LEASE, "system", OPERATOR)
        before = len(audit.requests(plane, user))
        timing = ("--observe-seconds", "1", "--resync-seconds", "1")
        elect = ("--leader-elect", "--leader-elect-resource-name", OPERATOR)
        elect += ("--leader-elect-resource-namespace", "system")
        with start_operator("--kubeconfig", str(kubeconfig), *timing, *elect, *arguments):
            namespace = namespaces[-1] if namespaces else "fourth" if cluster_profiles else "third"
            live_with_a_profile_of_the_cluster(cluster, namespace, allowed=cluster_profiles, reason=reason)
            live_through_everything(cluster, namespace)
            if inference_pools:
                live_with_an_inference_pool(cluster, namespace)
            time.sleep(2.5)  # until the lease was renewed
        asked = audit.requests(plane, user)[before:]

    refused = [event["requestURI"] for event in asked if event["responseStatus"]["code"] in (401, 403)]
    assert not refused
    # The right that an owner reference needs is looked up by the API server itself, never asked for by a request:
    # that nothing was refused with OwnerReferencesPermissionEnforcement shows that it is there.
    implied = {("ghostfleet.dev", "simulatedmodelservers/finalizers", "update")}
    used = {right for event in asked for right in rights_for(event)}
    tell("used", Counter(right for event in asked for right in rights_for(event)))
    tell("granted", Counter(granted(objects)))
    assert used <= granted(objects)
    assert granted(objects) - used == implied
