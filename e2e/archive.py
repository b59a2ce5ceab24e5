"""Writes a folder tree as an image archive of one layer, as `docker load` and `ctr images import` read them."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e import cache

EPOCH = "1970-01-01T00:00:00Z"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """What an image says about itself: its names, and how a container of it starts and stops."""

    tags: Sequence[str]
    entrypoint: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str | None = None
    keep_owners: bool = False  # otherwise every file is root's


def write(root: Path, archive: Path, image: Image) -> None:
    """Write the tree under `root` to `archive`. The same tree gives the same bytes."""
    with cache.appearing(archive) as draft:
        layer = draft.with_name(draft.name + ".layer")
        try:
            _write_layer(root, layer, image.keep_owners)
            _write_archive(layer, draft, image)
        finally:
            cache.remove(layer)


def _write_layer(root: Path, layer: Path, keep_owners: bool) -> None:
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        if not keep_owners:
            entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = 0
        return entry

    with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(root.iterdir()):
            tar.add(path, arcname=path.name, filter=plain)


def _write_archive(layer: Path, archive: Path, image: Image) -> None:
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    environment = {"PATH": PATH} | dict(image.environment)
    run: dict[str, object] = {"Env": [f"{name}={value}" for name, value in environment.items()]}
    if image.entrypoint:
        run["Entrypoint"] = list(image.entrypoint)
    if image.stop_signal:
        run["StopSignal"] = image.stop_signal
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": EPOCH,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": EPOCH}],
    }
    described = json.dumps(config).encode()
    name = f"{hashlib.sha256(described).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": list(image.tags), "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, name, described)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        tar.add(layer, arcname=f"{digest}/layer.tar")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
