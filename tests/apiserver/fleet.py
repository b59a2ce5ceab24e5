"""Real simulator processes in the place of pods: loopback addresses are their pod addresses."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.apiserver.cluster import Cluster, Json, Pods, eventually, mount, profile, server
from tests.apiserver.control_plane import process

from ghostfleet_operator.plan.naming import ChildNames
from ghostfleet_operator.reconcile.api import CONFIG_MAP, PROFILE
from ghostfleet_operator.resolve import ADMIN_PORT, PORT

_HOSTS = itertools.count(1)


def address() -> str:
    """A loopback address of this test session's own."""
    return f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250 + 1}.{next(_HOSTS)}"


class Fleet:
    """A server with running simulators as its pods."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.folder = folder
        self.pods = Pods(cluster, namespace, name)
        self.addresses: dict[str, str] = {}
        self.stack = contextlib.ExitStack()

    def start(self, *suffixes: str, file: str = "server.json") -> None:
        """Start simulators as the kubelet would, from the ConfigMap and the Secret, and report their pods Ready."""
        for suffix in suffixes:
            self.addresses[suffix] = address()
            folder = self.folder / suffix
            folder.mkdir()
            _, token = mount(self.cluster, self.namespace, self.name, folder)
            command = [sys.executable, "-m", "ghostfleet_operator.cli.main", "serve", "--config", str(folder / file)]
            command += ["--host", self.addresses[suffix], "--port", str(PORT), "--admin-port", str(ADMIN_PORT)]
            command += ["--admin-token-file", str(token)]
            env = {"POD_NAME": self.pods.name_of(suffix), "POD_IP": self.addresses[suffix]}
            self.stack.enter_context(process(command, folder / "log", env))
        for suffix in suffixes:
            eventually(lambda suffix=suffix: self.is_ready(suffix), within=60)
            self.pods.add(suffix, self.addresses[suffix])

    def refresh(self, suffix: str) -> None:
        """What the kubelet does a minute or so after a ConfigMap or a Secret changed."""
        mount(self.cluster, self.namespace, self.name, self.folder / suffix)

    def is_ready(self, suffix: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            if self.admin("GET", "ready", suffix).status_code == 200:
                return True
        raise AssertionError((self.folder / suffix / "log").read_text())

    def admin(self, method: str, page: str, suffix: str, body: Json | None = None) -> httpx.Response:
        token = (self.folder / suffix / "token").read_text().split()[0]
        url = f"http://{self.addresses[suffix]}:{ADMIN_PORT}/admin/{page}"
        headers = {"authorization": f"Bearer {token}"}
        return httpx.request(method, url, json=body, headers=headers, trust_env=False)

    def revision(self, suffix: str) -> int:
        return int(self.admin("GET", "state", suffix).json()["revision"])

    def hashes(self) -> set[str]:
        return {self.admin("GET", "state", suffix).json()["hash"] for suffix in self.addresses}

    def synced(self, revision: int) -> Json:
        """The status, once every pod is said to run this revision."""

        def look() -> Json:
            status = self.cluster.status(self.namespace, self.name)
            found = self.cluster.condition(self.namespace, self.name, "ProfileSynced")
            assert (found["status"], status["profile"]["desired"]["revision"]) == ("True", revision), status
            assert status["profile"]["syncedReplicas"] == len(self.addresses), status
            return status

        return eventually(look, within=30)


@contextlib.contextmanager
def fleet(cluster: Cluster, namespace: str, folder: Path, *suffixes: str, **spec: Any) -> Iterator[Fleet]:
    """The server `one` with the profile `shared` and a running simulator for each suffix."""
    cluster.create(profile(namespace, "shared", "20ms"))
    spec = {"replicas": len(suffixes), "profile": None, "profileRef": {"name": "shared"}, **spec}
    created = cluster.create(server(namespace, "one", **spec))
    names = ChildNames.of("one", created["metadata"]["uid"])
    eventually(lambda: cluster.must_get(CONFIG_MAP, namespace, names.endpoints))
    running = Fleet(cluster, namespace, "one", folder)
    with running.stack:
        running.start(*suffixes)
        yield running


def set_ttft(cluster: Cluster, namespace: str, ttft: str) -> None:
    cluster.merge(PROFILE, namespace, "shared", {"spec": {"simple": {"timeToFirstToken": ttft}}})
