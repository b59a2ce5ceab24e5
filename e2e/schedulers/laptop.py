"""The lab on this machine: servers are processes on loopback addresses, and a real API server takes them for pods."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import yaml
from tests.apiserver import control_plane

from e2e.build import binaries
from e2e.build.manifests import inference_extension
from e2e.conftest import Object, until
from e2e.ext_proc.picker import Client
from e2e.schedulers.lab import ALPHA, ARGUMENTS, BETA, POOL, Lab, Pod, RunningPicker
from ghostfleet_operator.kinds import parse_server
from ghostfleet_operator.plan.inference_pool import inference_pool
from ghostfleet_operator.plan.replicas import plan
from ghostfleet_operator.resolve import resolve
from ghostfleet_operator.testing.fleet import Fleet, Replica

_PODS: Final = "/api/v1/namespaces/default/pods"
_OF_KIND: Final = {
    "InferencePool": "inference.networking.k8s.io/v1/namespaces/default/inferencepools",
    "InferenceObjective": "inference.networking.x-k8s.io/v1alpha2/namespaces/default/inferenceobjectives",
}
_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class LaptopLab(Lab):
    """Replicas of a fleet, each as a Pod that is Ready when the replica is."""

    def __init__(self, fleet: Fleet, api: httpx.Client, kubeconfig: Path, client: Client, folder: Path) -> None:
        """`api` and `kubeconfig` are for the same API server, `folder` is for files of pickers."""
        self._fleet = fleet
        self._api = api
        self._kubeconfig = kubeconfig
        self._client = client
        self._folder = folder
        self._servers = {obj["metadata"]["name"]: copy.deepcopy(obj) for obj in (ALPHA, BETA)}
        self._seen: dict[str, bool] = {}
        """Pods that there are, and whether they are Ready."""

    def pods(self) -> list[Pod]:
        """Replicas that are ready."""
        found = [_pod(replica) for replica in self._fleet.replicas.values() if replica.pid and _is_ready(replica)]
        return sorted(found, key=lambda pod: (pod.server, pod.name))

    def change(self, server: str, **spec: Any) -> None:
        """By `ghostfleet apply`."""
        _merge(self._servers[server]["spec"], spec)
        self._fleet.apply(yaml.safe_dump(self._servers[server]))

    def kill(self, pod: Pod) -> None:
        """By SIGKILL."""
        next(replica for replica in self._fleet.replicas.values() if _pod(replica) == pod).kill()

    @contextmanager
    def having(self, obj: Object) -> Iterator[None]:
        """By the API server."""
        self.create(obj)
        try:
            yield
        finally:
            self._api.delete(f"/apis/{_OF_KIND[obj['kind']]}/{obj['metadata']['name']}").raise_for_status()

    def create(self, obj: Object) -> None:
        """Make an object of the pool's namespace; retried while the API server sets up its kind."""
        path = f"/apis/{_OF_KIND[obj['kind']]}"
        until(f"{obj['kind']} is made", lambda: self._api.post(path, json=obj).status_code in (201, 409))

    @contextmanager
    def picker(self, name: str, config: Mapping[str, Any]) -> Iterator[RunningPicker]:
        """A process."""
        file, log = self._folder / f"{name}.yaml", self._folder / f"{name}.log"
        file.write_text(json.dumps(config))
        grpc, health, metrics = control_plane.free_ports(3)
        command = [str(binaries.ensure(["epp"]) / "epp"), "--pool-name", POOL, "--pool-namespace", "default"]
        command += ["--config-file", str(file), f"--grpc-port={grpc}", f"--grpc-health-port={health}"]
        command += [f"--metrics-port={metrics}", *ARGUMENTS]
        with control_plane.process(command, log, {"KUBECONFIG": str(self._kubeconfig)}) as process:
            url = f"http://127.0.0.1:{metrics}"

            def answers() -> bool:
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    return httpx.get(f"{url}/metrics", trust_env=False).status_code == 200
                except httpx.HTTPError:
                    return False

            until("the picker tells its metrics", answers, 120)
            picker = RunningPicker(self._client, f"127.0.0.1:{grpc}", url)
            picker.until("ready_pods", len(self.pods()))
            yield picker

    def follow(self) -> None:
        """Bring the Pods in the API server to what the replicas are, as kubelets do."""
        wanted = {_pod(replica).name: replica for replica in self._fleet.replicas.values() if replica.pid}
        for name, replica in wanted.items():
            if name not in self._seen:
                self._api.post(_PODS, json=_pod_object(replica, self._servers)).raise_for_status()
            if self._seen.get(name) != (ready := _is_ready(replica)):
                body = {"status": _pod_status(replica, ready)}
                patch = {"content-type": "application/merge-patch+json"}
                self._api.patch(f"{_PODS}/{name}/status", content=json.dumps(body), headers=patch).raise_for_status()
                self._seen[name] = ready
        for name in self._seen.keys() - wanted.keys():
            self._api.request("DELETE", f"{_PODS}/{name}", json={"gracePeriodSeconds": 0}).raise_for_status()
            del self._seen[name]


@contextmanager
def laptop_lab(client: Client, folder: Path) -> Iterator[LaptopLab]:
    """A fleet of three servers, all ready, beside an API server of its own."""
    sources = yaml.safe_dump_all([ALPHA, BETA])
    with (
        control_plane.running(folder) as plane,
        plane.client() as api,
        Fleet(sources, folder=folder / "fleet", timeout=120) as fleet,
    ):
        for file in sorted(inference_extension().glob("*.yaml")):
            api.post(_DEFINITIONS, json=yaml.safe_load(file.read_text())).raise_for_status()
        made = LaptopLab(fleet, api, plane.kubeconfig, client, folder)
        made.create(_pool())
        stop = threading.Event()
        follower = threading.Thread(target=_follow, args=(made, stop))
        follower.start()
        try:
            yield made
        finally:
            stop.set()
            follower.join()


def _follow(lab: LaptopLab, stop: threading.Event) -> None:
    while not stop.is_set():
        lab.follow()
        time.sleep(0.2)


def _pool() -> Object:
    """The pool as the operator makes it, but for the owner."""
    meta = {"namespace": "default", "uid": "0", "generation": 1}
    found = inference_pool(
        plan(resolve(parse_server({**ALPHA, "metadata": ALPHA["metadata"] | meta}), _no_profile), None)
    )
    assert found is not None
    return {**found, "metadata": {"name": found["metadata"]["name"]}}


def _no_profile(_: object, __: str) -> None:
    return None


def _is_ready(replica: Replica) -> bool:
    """What the readiness probe of a pod would say."""
    try:
        answer = httpx.get(f"{replica.admin_url}/admin/ready", timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200


def _pod(replica: Replica) -> Pod:
    return Pod(
        f"{replica.name}-{replica.pid}", str(replica.pid), urlsplit(replica.url).netloc, replica.url, replica.server
    )


def _pod_object(replica: Replica, servers: Mapping[str, Object]) -> Object:
    labels = servers[replica.server]["spec"]["pod"]["labels"] | {"ghostfleet.dev/server": replica.server}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _pod(replica).name, "labels": labels},
        "spec": {"containers": [{"name": "server", "image": "x"}], "nodeName": "laptop"},
    }


def _pod_status(replica: Replica, ready: bool) -> Object:
    address = urlsplit(replica.url).hostname
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "127.0.0.1",
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }


def _merge(spec: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """A merge patch (RFC 7386)."""
    for key, value in patch.items():
        if isinstance(value, Mapping) and isinstance(spec.get(key), dict):
            _merge(spec[key], value)
        else:
            spec[key] = value
