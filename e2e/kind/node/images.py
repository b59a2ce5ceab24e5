"""The images a cluster starts from, as archives under the names that kubeadm and kind ask for."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e import archive, shell
from e2e.build.components import COMPONENTS, COREDNS, ETCD, KUBERNETES
from e2e.kind.node import small_root
from e2e.kind.node.kind_module import KindModule

PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "coredns",
    "local-path-provisioner",
    "pause",
)
# kube-proxy's own needs, and those of the pod network's script (pod-network.yaml), which runs in the same image.
PROXY_TOOLS = ["sh", "sleep", "mv", "cat", "modprobe", "ip", "nft", "conntrack"] + [
    f"{family}{backend}{action}"
    for family in ("iptables", "ip6tables")
    for backend in ("", "-nft", "-legacy")
    for action in ("", "-save", "-restore")
]


def asked_for(binaries: Path) -> dict[str, str]:
    """The image names kubeadm asks for, by their last part: `etcd` -> its whole name with the tag.

    Raises Failure where a version built here is not the one asked for.
    """
    listed = shell.run([binaries / "kubeadm", "config", "images", "list", "--kubernetes-version", KUBERNETES])
    names = {line.rpartition("/")[2].partition(":")[0]: line for line in listed.split()}
    for name, version in (("etcd", ETCD.removeprefix("v")), ("coredns", COREDNS)):
        tag = names[name].rpartition(":")[2]
        if tag.partition("-")[0] != version:
            raise shell.Failure(f"this kubeadm asks for {names[name]}, but e2e/build/components.py builds {version}")
    return names


def write(binaries: Path, debian: Path, kind: KindModule, work: Path) -> Path:
    """Write every archive under `work`; the folder that holds them and nothing else."""
    names = asked_for(binaries)
    tags = {name: [names[name]] for name in PROGRAMS if name in names}
    tags["pause"].append(kind.sandbox_image)
    tags["local-path-provisioner"] = [kind.provisioner_image]
    # kind's manifests rely on the entrypoint of these; the others are started by their path
    entrypoints = {"coredns": ["coredns"], "pause": ["pause"]}
    archives = work / "archives"
    for name in PROGRAMS:
        root = work / f"root-{name}"
        if name == "kube-proxy":
            xtables = [f"/{path.relative_to(debian)}" for path in debian.glob("usr/lib/*/xtables/*.so")]
            small_root.cut(debian, root, PROXY_TOOLS + sorted(xtables))
        _add_program(binaries / COMPONENTS[name].name, root)
        archive.write(root, archives / f"{name}.tar", archive.Image(tags[name], entrypoints.get(name, ())))
    helper = work / "root-local-path-helper"
    small_root.cut(debian, helper, ["sh", "mkdir", "rm"])
    archive.write(helper, archives / "local-path-helper.tar", archive.Image([kind.helper_image]))
    return archives


def _add_program(program: Path, root: Path) -> None:
    (root / "usr/local/bin").mkdir(parents=True)
    shutil.copy2(program, root / "usr/local/bin")
    temporary = root / "tmp"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o1777)
