"""The cluster that `python -m e2e` prepared, as fixtures: kubectl, and a namespace that enforces restricted pods."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

Object = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace. A command that fails ends the test with what kubectl said."""

    namespace: str

    def __call__(self, *arguments: str, text: str | None = None, timeout: float = 180) -> str:
        """The standard output of one command."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            pytest.fail(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Object:
        """An object, or a list of them, as JSON."""
        found: Object = json.loads(self("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[Object]:
        """The objects of a list."""
        items: list[Object] = self.get(*arguments)["items"]
        return items

    def node_url(self, service: str) -> str:
        """Base URL of a Service of type NodePort, as clients outside of the cluster have it, once it leads to a pod.

        A node port is open a moment after the first pod behind it is Ready: when the node's proxy has heard of it.
        """
        address = (self.node_address(), int(self.get("service", service)["spec"]["ports"][0]["nodePort"]))
        until("the node port leads to a pod", lambda: _is_open(address), 60)
        return f"http://{address[0]}:{address[1]}"

    def node_address(self) -> str:
        """Address of a node, on which ports of Services of type NodePort are."""
        addresses = self.items("nodes")[0]["status"]["addresses"]
        return str(next(found["address"] for found in addresses if found["type"] == "InternalIP"))

    def pod_url(self, api: str, pod: str, port: int = 8000) -> str:
        """Base URL of a port of a pod by way of the API server at `api`: pods have addresses inside of the cluster."""
        return f"{api}/api/v1/namespaces/{self.namespace}/pods/{pod}:{port}/proxy"

    def apply(self, *objects: Object) -> None:
        """Server-side apply, with unknown fields refused."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self("apply", "--server-side", "--validate=strict", "-f", "-", text=text)


def _is_open(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return False
    return True


def until(what: str, look: Callable[[], T | None], seconds: float = 120) -> T:
    """What `look` returns once that is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--epp", type=Path, metavar="PATH", help="an endpoint picker of llm-d-router, for tests with one")
    parser.addoption("--pd-sidecar", type=Path, metavar="PATH", help="its sidecar for prefill and decode, likewise")


@pytest.fixture(scope="session")
def api() -> Iterator[str]:
    """Base URL of the API server on loopback, with the rights of the kubeconfig: the way to every pod."""
    with subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True) as proxy:
        try:
            said = proxy.stdout.readline() if proxy.stdout else ""
            found = re.search(r"127\.0\.0\.1:\d+", said)
            assert found, f"kubectl proxy said {said!r}"
            yield f"http://{found[0]}"
        finally:
            proxy.terminate()


@pytest.fixture(scope="module")
def kubectl(request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """kubectl in a namespace of the module's own."""
    with namespace(request.module.__name__.rpartition(".")[2].replace("test_", "e2e-").replace("_", "-")) as found:
        yield found


@contextmanager
def namespace(name: str) -> Iterator[Kubectl]:
    """kubectl in a new namespace, until the block ends."""
    found = Kubectl(name)
    subprocess.run(["kubectl", "delete", "namespace", name, "--ignore-not-found", "--wait"], check=True, timeout=180)
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    found.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield found
    subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], check=True, timeout=60)
