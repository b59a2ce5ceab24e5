"""A real etcd and kube-apiserver on loopback, for as long as a test session lasts."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import secrets
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from e2e import shell
from e2e.build import binaries
from e2e.build.components import API_SERVER
from tests import served

START_SECONDS = 60


@dataclass(frozen=True)
class ControlPlane:
    """Where the API server is and how to be its administrator."""

    url: str
    token: str
    ca: Path
    kubeconfig: Path
    folder: Path

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.ca))
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=context, trust_env=False, timeout=60)


class Unavailable(Exception):
    """There is no API server to be had here; says why."""


def programs() -> Path:
    """A folder with etcd and kube-apiserver; raises Unavailable."""
    try:
        return binaries.ensure(API_SERVER)
    except (shell.Failure, OSError) as error:
        raise Unavailable(f"no kube-apiserver and etcd: {error}") from None


@contextlib.contextmanager
def running(folder: Path, *flags: str) -> Iterator[ControlPlane]:
    """Start both below `folder`, the API server with further `flags`, and end them."""
    found = programs()
    etcd_port, peer_port, port = free_ports(3)
    etcd = [
        str(found / "etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
        f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]
    plane = _files(folder, port)
    api_server = [
        str(found / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'accounts.key'}",
        f"--service-account-signing-key-file={folder / 'accounts.key'}",
        "--service-cluster-ip-range=10.96.0.0/16",
        # There is no controller manager that would make the accounts this plug-in asks for.
        "--disable-admission-plugins=ServiceAccount",
        "--enable-priority-and-fairness=false",
        "--profiling=false",
        *flags,
    ]
    with process(etcd, folder / "etcd.log"), process(api_server, folder / "kube-apiserver.log") as server:
        _wait(plane, server, folder / "kube-apiserver.log")
        yield plane


@contextlib.contextmanager
def process(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends or this process dies, its output in a file."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - it makes one system call and takes no lock
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 as `served.free_ports` chooses them."""
    first = served.free_ports(count)
    return list(range(first, first + count))


_PRCTL = ctypes.CDLL(None).prctl


def _die_with_parent() -> None:
    _PRCTL(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _files(folder: Path, port: int) -> ControlPlane:
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    (folder / "accounts.key").write_text(_ec_key())
    url, ca, kubeconfig = f"https://127.0.0.1:{port}", folder / "apiserver.crt", folder / "kubeconfig"
    (folder / "token").write_text(token)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "admin", "user": {"tokenFile": str(folder / "token")}}],
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    return ControlPlane(url, token, ca, kubeconfig, folder)


def _ec_key() -> str:
    """A fresh P-256 private key as PEM (RFC 5915 without the optional public key)."""
    # Below 2^255 it is less than the order of the curve.
    number = (1 << 200 | secrets.randbits(255)).to_bytes(32, "big")
    der = bytes.fromhex("30310201010420") + number + bytes.fromhex("a00a06082a8648ce3d030107")
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(der).decode()}-----END EC PRIVATE KEY-----\n"


def _wait(plane: ControlPlane, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError, OSError), plane.client() as client:
            if client.get("/readyz").status_code == 200:
                return
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise Unavailable(f"kube-apiserver did not become ready in {START_SECONDS} s:\n{tail}")
