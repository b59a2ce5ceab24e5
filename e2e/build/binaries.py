"""Builds components into a store, one folder per recipe, and hands out folders of links to them."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from e2e import cache, shell
from e2e.build.components import COMPONENTS, Component
from e2e.build.toolchain import Go, find_go


def ensure(names: Iterable[str]) -> Path:
    """A folder that holds the named programs, built now if they never were.

    `KUBEBUILDER_ASSETS`, where set, is that folder if it has them all. Two runs at once do not collide, and one that is
    interrupted leaves nothing half-built. Raises Failure.
    """
    wanted = [COMPONENTS[name] for name in names]
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given and all(os.access(Path(given) / component.name, os.X_OK) for component in wanted):
        return Path(given)
    folder = _links_folder()
    if all((folder / component.name).exists() for component in wanted):
        return folder
    with cache.exclusive("build"):
        go = None
        for component in wanted:
            program = _store() / component.key / component.name
            if not program.exists():
                go = go or find_go()
                _build(go, component, program)
            with cache.appearing(folder / component.name) as link:
                link.symlink_to(program)
    return folder


def _store() -> Path:
    return cache.root() / "store"


def _links_folder() -> Path:
    """One folder per set of recipes: a change of any version gives another folder, and rebuilds that one part only."""
    recipes = "\n".join(component.key for component in COMPONENTS.values())
    version = COMPONENTS["kube-apiserver"].version
    return cache.root() / "bin" / f"{version}-{hashlib.sha256(recipes.encode()).hexdigest()[:8]}"


def _build(go: Go, component: Component, program: Path) -> None:
    with (
        shell.step(f"building {component.name} {component.version}"),
        tempfile.TemporaryDirectory(prefix="ghostfleet-build-") as name,
        cache.appearing(program) as draft,
    ):
        folder = Path(name)
        go.run("mod", "init", "build", folder=folder)
        if component.source:
            (folder / component.source.name).write_text(component.source.read_text())
            package = "."
            if component.module:
                go.run("get", f"{component.module}@{component.version}", folder=folder)
                go.run("get", package, folder=folder)  # what the file imports besides
        else:
            if component.staged:
                _replace_staging(go, component, folder)
            package = component.package
            go.run("get", f"{package}@{component.version}", folder=folder)
        go.run("build", "-trimpath", "-ldflags", component.linker_flags, "-o", str(draft), package, folder=folder)


def _replace_staging(go: Go, component: Component, folder: Path) -> None:
    """Kubernetes v1.N.P replaces its staging modules by its own folders; the proxy serves the same as v0.N.P."""
    published = "v0" + component.version.removeprefix("v1")
    requirements = Path(go.download(component.module, component.version)["GoMod"]).read_text()
    modules = re.findall(r"^\s*(?:replace )?(k8s\.io/[a-z0-9-]+) => \./staging/", requirements, re.MULTILINE)
    go.run("mod", "edit", *(f"-replace={module}={module}@{published}" for module in modules), folder=folder)
