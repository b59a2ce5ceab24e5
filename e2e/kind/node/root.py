"""The root file system of a node: Debian, the built programs, kind's files, and what a container must not start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from e2e import debian, shell
from e2e.build.components import KUBERNETES
from e2e.kind.node.kind_module import KindModule

# systemd 252: later ones refuse to boot on cgroup v1.
SUITE = "bookworm"
PACKAGES = (
    "systemd",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "nftables",
    "conntrack",
    "iproute2",
    "ethtool",
    "kmod",
    "mount",
    "procps",
    "jq",
    "curl",
    "ca-certificates",
)
POD_NETWORK = Path(__file__).parent / "pod-network.yaml"
ENABLED = ("kubelet", "containerd", "undo-mount-hacks")
# A container has no devices, consoles, clock or kernel mounts to manage.
MASKED_PATTERNS = (
    "systemd-udev*.service",
    "systemd-udev*.socket",
    "*.timer",
    "sys-*.mount",
    "dev-*.mount",
    "proc-*.automount",
)
MASKED = (
    "systemd-binfmt.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-firstboot.service",
    "systemd-remount-fs.service",
    "systemd-sysusers.service",
    "systemd-initctl.socket",
    "systemd-journald-audit.socket",
    "getty.target",
    "console-getty.service",
)
NOT_MASKED = "systemd-tmpfiles-clean.timer"


def make(node: Path, binaries: Path, kind: KindModule, proxy_image: str) -> None:
    """Turn `node`, the root of a Debian with PACKAGES, into the root of a kind node."""
    (node / "etc/machine-id").write_text("")  # the entrypoint makes one for each node
    _add_kind_files(node, kind)
    _add_programs(node, binaries)
    _configure_containerd(node)
    _choose_units(node)
    manifests = node / "kind/manifests"
    manifests.mkdir(parents=True)
    network = POD_NETWORK.read_text().replace("KUBE_PROXY_IMAGE", proxy_image)
    (manifests / "default-cni.yaml").write_text(network)
    (manifests / "default-storage.yaml").write_text(kind.storage_manifest())
    (node / "kind/version").write_text(KUBERNETES)


def bootstrap(folder: Path) -> None:
    """Make `folder` the root of a Debian with what a node needs."""
    debian.bootstrap(SUITE, PACKAGES, folder)


def _add_kind_files(node: Path, kind: KindModule) -> None:
    """Lay kind's tree over the root. In Go's module cache every file is read-only, whatever its purpose."""
    for source in sorted(kind.node_files.rglob("*")):
        path = source.relative_to(kind.node_files)
        target = node / path
        if source.is_dir():
            target.mkdir(exist_ok=True)
            continue
        shutil.copyfile(source, target)
        target.chmod(0o755 if path.parent.name == "bin" else 0o644)


def _add_programs(node: Path, binaries: Path) -> None:
    for name in ("kubeadm", "kubelet", "kubectl"):
        shutil.copy2(binaries / name, node / "usr/bin")
    shutil.copy2(binaries / "crictl", node / "usr/local/bin")
    # Debian's containerd and CNI plugins, where kind's units and configuration look for them
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        (node / "usr/local/bin" / name).symlink_to(f"/usr/bin/{name}")
    for folder in ("opt/cni", "etc/cni/net.d", "etc/kubernetes/manifests"):
        (node / folder).mkdir(parents=True, exist_ok=True)
    for leftover in (node / "etc/cni/net.d").iterdir():
        leftover.unlink()
    (node / "opt/cni/bin").symlink_to("/usr/lib/cni")
    init = node / "usr/sbin/init"
    init.unlink(missing_ok=True)
    init.symlink_to("/lib/systemd/systemd")


def _configure_containerd(node: Path) -> None:
    """Two changes of kind's own configuration, and the spec that every container of the node starts from."""
    path = node / "etc/containerd/config.toml"
    text = path.read_text()
    # without CAP_SYS_RESOURCE nobody may lower an oom_score_adj, and containerd then starts no sandbox at all
    allowed = text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    if allowed == text:
        raise shell.Failure(f"kind's containerd configuration has changed: no restrict_oom_score_adj in {path}")
    path.write_text(allowed)
    spec = json.loads(shell.run(["chroot", node, "ctr", "oci", "spec"]))
    del spec["process"]["rlimits"]
    hooks = spec.setdefault("hooks", {}).setdefault("createContainer", [])
    hooks.append({"path": "/kind/bin/mount-product-files.sh"})  # hides the host's product id
    (node / "etc/containerd/cri-base.json").write_text(json.dumps(spec))


def _choose_units(node: Path) -> None:
    system, chosen = node / "usr/lib/systemd/system", node / "etc/systemd/system"
    masked = {path.name for pattern in MASKED_PATTERNS for path in system.glob(pattern)} - {NOT_MASKED}
    for unit in sorted(masked | set(MASKED)):
        _link(chosen / unit, "/dev/null")
    for unit in ENABLED:
        _link(chosen / "multi-user.target.wants" / f"{unit}.service", f"/etc/systemd/system/{unit}.service")
    _link(chosen / "default.target", "/lib/systemd/system/multi-user.target")
    with (node / "etc/systemd/journald.conf").open("a") as file:
        file.write("ReadKMsg=no\n")


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
