"""A stand-in for the public Python image, for where it cannot be pulled: the same Python, from Debian packages."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from e2e import archive, cache, debian, shell
from e2e.images.builder import Builder

PUBLIC = "docker.io/library/python:3.13-slim"
SUITE = "trixie"  # its Python is 3.13
PACKAGES = ("python3", "python3-venv", "ca-certificates")


def ensure(builder: Builder, name: str) -> None:
    """Have the base image: kept, pulled, or for PUBLIC made. Raises Failure for another one that cannot be pulled."""
    if builder.has(name) or builder.pull(name):
        return
    if name != PUBLIC:
        raise shell.Failure(f"cannot pull the base image {name}")
    shell.say(f"{name} cannot be pulled: making one of Debian {SUITE} under its name")
    recipe = hashlib.sha256(f"{PACKAGES} {Path(debian.__file__).read_text()}".encode()).hexdigest()[:8]
    kept = cache.root() / "images" / f"base-{SUITE}-{recipe}.tar"
    with cache.exclusive("base-image"):
        if not kept.exists():
            with shell.step(f"bootstrapping Debian {SUITE}"), tempfile.TemporaryDirectory() as folder:
                _write(Path(folder) / "root", kept)
    builder.load(kept)


def _write(root: Path, kept: Path) -> None:
    root.mkdir()
    debian.bootstrap(SUITE, PACKAGES, root)
    archive.write(root, kept, archive.Image(tags=[PUBLIC], keep_owners=True))
