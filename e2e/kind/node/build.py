"""Builds the node image's archive, once per recipe."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from e2e import archive, cache, shell
from e2e.build import binaries
from e2e.build.components import COMPONENTS, KUBERNETES
from e2e.kind.node import images, root
from e2e.kind.node.kind_module import KindModule

# What runs in it, what runs in the images it starts from, and kind, whose module has files for it.
NODE_COMPONENTS = ("kubeadm", "kubelet", "kubectl", "crictl", *images.PROGRAMS, "kind")
PRIVATE = ["unshare", "--mount", "--net", "--pid", "--fork"]
REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class NodeImage:
    """A node image: its name, and the archive to load it from."""

    name: str
    archive: Path


def ensure() -> NodeImage:
    """The node image of this recipe, built now if it never was: minutes the first time. Needs root on Linux."""
    recipe = _recipe()
    folder = cache.root() / "kind"
    image = NodeImage(f"localhost/ghostfleet-kind-node:{KUBERNETES}-{recipe}", folder / f"node-{recipe}.tar")
    if image.archive.exists():
        return image
    programs = binaries.ensure(NODE_COMPONENTS)
    with cache.exclusive("node-image"):
        if not image.archive.exists():
            for outdated in folder.glob("node-*.tar"):
                outdated.unlink()
            _build(image, programs, folder)
    return image


def _build(image: NodeImage, programs: Path, folder: Path) -> None:
    debian = _debian(folder)
    kind = KindModule()
    work = folder / "work"
    cache.remove(work)
    work.mkdir()
    with shell.step("writing the images a cluster starts from"):
        archives = images.write(programs, debian, kind, work)
    with shell.step("writing the node image"):
        node = work / "node"
        shell.run(["cp", "-a", debian, node])
        root.make(node, programs, kind, images.asked_for(programs)["kube-proxy"])
        shell.run([*PRIVATE, sys.executable, "-m", "e2e.kind.node.preload", str(node), str(archives)], cwd=REPOSITORY)
        described = archive.Image(
            tags=[image.name],
            entrypoint=["/usr/local/bin/entrypoint", "/sbin/init"],
            environment={"container": "docker"},  # tells systemd where it is
            stop_signal="SIGRTMIN+3",
            keep_owners=True,
        )
        archive.write(node, image.archive, described)
    cache.remove(work)


def _debian(folder: Path) -> Path:
    """The Debian root that nodes are made from; it outlives changes of everything else in the recipe."""
    debian = folder / f"debian-{root.SUITE}-{_digest(*root.PACKAGES, _text('e2e/debian.py'))[:8]}"
    if not debian.exists():
        for outdated in folder.glob("debian-*"):
            shutil.rmtree(outdated)
        with shell.step(f"bootstrapping Debian {root.SUITE}"), cache.appearing(debian) as draft:
            root.bootstrap(draft)
    return debian


def _recipe() -> str:
    """A short hash of everything the image is made from: versions, and the text of this package."""
    parts = [COMPONENTS[name].key for name in NODE_COMPONENTS]
    parts += [path.read_text() for path in sorted(Path(__file__).parent.iterdir()) if path.is_file()]
    return _digest(*parts, _text("e2e/archive.py"), _text("e2e/debian.py"))[:12]


def _text(path: str) -> str:
    return (REPOSITORY / path).read_text()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
