"""What builds images here: docker where an engine answers, buildah elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e import debian, shell


@dataclass(frozen=True)
class Builder:
    """A program that builds images and keeps them under their names."""

    program: str
    environment: Mapping[str, str]
    build_command: Sequence[str]

    def build(self, dockerfile: Path, name: str, arguments: Mapping[str, str], secrets: Mapping[str, Path]) -> None:
        """Build a Dockerfile in its folder. `secrets` are mounted by its RUN lines and end up in no layer."""
        command = [*self.build_command, "--tag", name, "--file", str(dockerfile)]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        for key, path in secrets.items():
            command += ["--secret", f"id={key},src={path}"]
        shell.run([self.program, *command, dockerfile.parent], env=self.environment)

    def has(self, name: str) -> bool:
        """Whether an image of this name is here."""
        return shell.succeeds([self.program, "inspect", "--type=image", name], env=self.environment)

    def pull(self, name: str) -> bool:
        """Whether the image could be fetched from its registry."""
        return shell.succeeds([self.program, "pull", "--quiet", name], env=self.environment, timeout=600)

    def push(self, name: str) -> None:
        """Send the image to its registry, with the log-ins of this program."""
        shell.run([self.program, "push", name], env=self.environment)

    def load(self, archive: Path) -> None:
        """Take in the images of an archive, under the names it gives them."""
        source = ["load", "--input", archive] if self.program == "docker" else ["pull", f"docker-archive:{archive}"]
        shell.run([self.program, *source], env=self.environment)

    def save(self, name: str, archive: Path) -> None:
        """Write the image to an archive, named as `name` is read: without a registry that is docker.io/library/."""
        if self.program == "docker":
            shell.run(["docker", "save", "--output", archive, name], env=self.environment)
        else:
            archive.unlink(missing_ok=True)  # an archive there is added to
            full = name if "/" in name else f"docker.io/library/{name}"
            shell.run([self.program, "push", name, f"docker-archive:{archive}:{full}"], env=self.environment)


def choose() -> Builder:
    """Docker where `docker info` answers and it can build; else buildah, from Debian's packages where it is missing."""
    docker = os.environ | {"DOCKER_BUILDKIT": "1"}  # the Dockerfiles mount secrets
    if shell.succeeds(["docker", "info"], timeout=20) and shell.succeeds(["docker", "build", "--help"], env=docker):
        return Builder("docker", docker, ["build"])
    debian.require("buildah")
    # chroot: RUN needs neither a container runtime nor a network of its own
    settings = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}
    return Builder("buildah", settings | dict(os.environ), ["build", "--layers", "--pull-never"])
