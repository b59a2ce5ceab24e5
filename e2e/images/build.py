"""Builds the images and writes them to archives."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from e2e import cache, shell
from e2e.images import base, builder, pip_access

REPOSITORY = Path(__file__).parents[2]
NAMES = ("sim", "operator")


@dataclass(frozen=True)
class Images:
    """The images of this version of the project. `prefix` is put before their names: `registry.example/team/`."""

    prefix: str = ""

    def name(self, which: str) -> str:
        """The whole name of one of NAMES."""
        return f"{self.prefix}ghostfleet-{which}:{version()}"

    def archive(self, which: str) -> Path:
        """Where `build` leaves the archive of one of NAMES."""
        return cache.root() / "images" / f"ghostfleet-{which}.tar"

    def build(self, which: str) -> None:
        """Build one of NAMES and write its archive."""
        chosen = builder.choose()
        base_name = os.environ.get("BASE") or base.PUBLIC
        base.ensure(chosen, base_name)
        arguments = {"BASE": base_name, "VERSION": version(), "REVISION": _revision()}
        with (
            cache.exclusive("images"),
            shell.step(f"building {self.name(which)} with {chosen.program}"),
            pip_access.secrets() as secrets,
        ):
            dockerfile = REPOSITORY / f"Dockerfile.{which}"
            chosen.build(dockerfile, self.name(which), arguments | dict(pip_access.build_arguments()), secrets)
            with cache.appearing(self.archive(which)) as draft:
                chosen.save(self.name(which), draft)

    def push(self, which: str) -> None:
        """Send a built image to the registry that its prefix names."""
        with shell.step(f"pushing {self.name(which)}"):
            builder.choose().push(self.name(which))


def version() -> str:
    """The project's version, which is also the images' tag."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        found: str = tomllib.load(file)["project"]["version"]
    return found


def _revision() -> str:
    """The commit built from, marked where the tree differs from it."""
    try:
        commit = shell.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY).strip()
        return commit + ("-modified" if shell.run(["git", "status", "--porcelain"], cwd=REPOSITORY) else "")
    except shell.Failure:
        return "unknown"
