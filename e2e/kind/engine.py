"""The engine a kind cluster runs on: this machine's Docker, or a dockerd in a network namespace of its own."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from e2e import cache, debian, shell
from e2e.kind.node import build

# The public node image of the Kubernetes minor version that is built here otherwise.
PUBLIC_NODE = "kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a"


class Engine(Protocol):
    """Where the nodes of a cluster run, and how programs reach them."""

    def environment(self) -> Mapping[str, str]:
        """What docker and kind need in their environment."""

    def inside(self) -> list[str]:
        """The words to put before a command so that it runs where the cluster is reachable."""

    def start(self) -> str:
        """Have the engine running with a node image in it; the image's name."""

    def recover(self) -> bool:
        """Whether the engine answers, made to answer again if a run that was killed left containers behind."""

    def stop(self) -> None:
        """End what `start` started. What it keeps makes the next start quick."""

    def purge(self) -> None:
        """End it and delete everything it keeps."""


def choose() -> Engine:
    """This machine's Docker where it answers and has or gets the public node image; else an engine of our own.

    One of our own that runs already stays the choice. Raises Failure where neither can be had.
    """
    own = OwnEngine()
    if not own.running() and _docker_serves():
        return HostEngine()
    if platform.system() != "Linux":
        raise shell.Failure("no Docker engine answers `docker info`: start one, or set KUBECONFIG to a cluster")
    if os.geteuid():
        raise shell.Failure(
            "no Docker engine answers `docker info` with the public node image, and only root can start one:"
            " start Docker, run as root, or set KUBECONFIG to a cluster"
        )
    return own


def _docker_serves() -> bool:
    if not shell.succeeds(["docker", "info"], timeout=20):
        return False
    node = _public_node()
    present = shell.succeeds(["docker", "image", "inspect", node])
    return present or shell.succeeds(["docker", "pull", "--quiet", node], timeout=900)


def _public_node() -> str:
    return os.environ.get("KIND_NODE_IMAGE") or PUBLIC_NODE


class HostEngine:
    """The Docker engine of this machine: nothing to start, and its images are not ours to delete."""

    def environment(self) -> Mapping[str, str]:
        """The caller's."""
        return os.environ

    def inside(self) -> list[str]:
        """Nothing: kind publishes the API server on the loopback address."""
        return []

    def start(self) -> str:
        """The public node image, which `choose` has found here."""
        return _public_node()

    def recover(self) -> bool:
        """Always: `choose` has asked it."""
        return True

    def stop(self) -> None:
        """Docker goes on."""

    def purge(self) -> None:
        """Nothing here is ours."""


class OwnEngine:
    """Debian's dockerd in a network namespace from which nothing leads out, so it can touch no network of the machine.

    It pulls nothing: images come from archives. What it keeps (the unpacked node image) is in the cache folder; sockets
    and logs are in /run.
    """

    NAMESPACE = "ghostfleet-e2e"
    # dockerd and kubelet want a default route: into a veth pair whose other end lies beside it
    ADDRESS = "192.168.79.1/24"

    def __init__(self) -> None:
        """Nothing is touched before `start`."""
        self._run = Path("/run/ghostfleet-e2e")
        self._data = cache.root() / "kind" / "docker"
        self._socket = self._run / "docker.sock"
        self._pid_file = self._run / "docker.pid"
        self.log = self._run / "dockerd.log"

    def environment(self) -> Mapping[str, str]:
        """The caller's with this engine for docker."""
        others = {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}
        return others | {"DOCKER_HOST": f"unix://{self._socket}", "PATH": debian.SYSTEM_PATH}

    def inside(self) -> list[str]:
        """Not `ip netns exec`: that mounts /sys anew and hides the control groups."""
        return ["nsenter", f"--net=/run/netns/{self.NAMESPACE}"]

    def running(self) -> bool:
        """Whether our dockerd answers."""
        return self._socket.exists() and shell.succeeds(["docker", "version"], env=self.environment(), timeout=10)

    def start(self) -> str:
        """Start dockerd unless it runs, and load the node image unless it is there."""
        node = build.ensure()
        debian.require("dockerd", "docker", "containerd", "runc", "ip", "iptables", "sysctl")
        if not self.running():
            self._start_dockerd()
        if not shell.succeeds(["docker", "image", "inspect", node.name], env=self.environment()):
            with shell.step("loading the node image"):
                shell.run(["docker", "image", "prune", "--all", "--force"], env=self.environment())
                shell.run(["docker", "load", "--input", node.archive], env=self.environment())
        return node.name

    def recover(self) -> bool:
        """Whether our dockerd answers, started again if shims of its containers outlived it."""
        if self.running():
            return True
        shims = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(self._run / "exec") in _read(path)]
        if shims:
            self._start_dockerd()
        return bool(shims)

    def stop(self) -> None:
        """End dockerd and its namespace; the loaded node image stays."""
        self._end()
        self._remove_namespace()

    def purge(self) -> None:
        """End dockerd and delete its images, and the node image's archive with them."""
        self.stop()
        for folder in (self._data, self._run):
            for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
                if Path(line.split()[1]).is_relative_to(folder):
                    shell.succeeds(["umount", "--lazy", line.split()[1]])
            cache.remove(folder)
        for made in (cache.root() / "kind").glob("*"):
            cache.remove(made)

    def _make_namespace(self) -> None:
        name = self.NAMESPACE
        if not shell.succeeds([*self.inside(), "true"]):
            self._remove_namespace()  # a name that outlived a restart of the machine
            shell.run(["ip", "netns", "add", name])
        address = ["ip", "-n", name]
        if not shell.succeeds([*address, "link", "show", "out0"]):
            shell.run([*address, "link", "add", "out0", "type", "veth", "peer", "name", "out1"])
        shell.run([*address, "address", "replace", self.ADDRESS, "dev", "out0"])
        for device in ("lo", "out0", "out1"):
            shell.run([*address, "link", "set", device, "up"])
        shell.run([*address, "route", "replace", "default", "dev", "out0"])
        shell.run([*self.inside(), "sysctl", "-qw", "net.ipv4.ip_forward=1"])

    def _remove_namespace(self) -> None:
        name = Path("/run/netns") / self.NAMESPACE
        if name.exists() and not shell.succeeds(["ip", "netns", "delete", self.NAMESPACE]):
            name.unlink(missing_ok=True)

    def _start_dockerd(self) -> None:
        """Start dockerd in its namespace. It ends at once what containers an earlier one left running."""
        self._end()
        self._make_namespace()
        self._run.mkdir(parents=True, exist_ok=True)
        self._data.mkdir(parents=True, exist_ok=True)
        runtime = Path(__file__).with_name("runc_within_bounds.py")
        command = [*self.inside(), "dockerd", "--host", f"unix://{self._socket}", "--pidfile", str(self._pid_file)]
        command += ["--data-root", str(self._data), "--exec-root", str(self._run / "exec")]
        command += ["--add-runtime", f"within-bounds={runtime}", "--default-runtime", "within-bounds"]
        with shell.step("starting dockerd"), self.log.open("w") as log:
            dockerd = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd="/",
                start_new_session=True,
            )
            deadline = time.monotonic() + 60
            while not self.running():
                if dockerd.poll() is not None or time.monotonic() > deadline:
                    dockerd.kill()
                    raise shell.Failure(f"dockerd did not start:\n{self.log.read_text()[-3000:]}")
                time.sleep(0.1)

    def _end(self) -> None:
        """End our dockerd if it lives. Containers it leaves behind are ended by the next one on the same data."""
        pid = self._dockerd()
        if pid:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 40
            while self._dockerd() == pid:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.1)
        # Its containerd ends with it, but a process id left in a file would be taken for alive while it is a zombie's.
        for leftover in (self._pid_file, self._socket, self._run / "exec/containerd/containerd.pid"):
            leftover.unlink(missing_ok=True)

    def _dockerd(self) -> int | None:
        """The process id of our dockerd: the one in its file, if that process still is what it was."""
        pid = _read(self._pid_file).strip()
        return int(pid) if pid and str(self._data) in _read(Path(f"/proc/{pid}/cmdline")).split("\0") else None


def _read(path: Path) -> str:
    """A file's text; none where it, or the process it tells of, is gone."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
