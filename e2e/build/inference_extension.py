"""Definitions of the kinds of the Gateway API Inference Extension, from its Go module."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e import cache
from e2e.build.components import COMPONENTS
from e2e.build.toolchain import find_go


def definitions() -> Path:
    """A folder with a CRD in each `*.yaml`, of the version that `epp` is built from. Raises Failure."""
    component = COMPONENTS["epp"]
    folder = cache.root() / "store" / f"inference-extension-crds-{component.version}"
    with cache.exclusive("definitions"):
        if not folder.exists():
            module = Path(find_go().download(component.module, component.version)["Dir"])
            with cache.appearing(folder) as draft:
                shutil.copytree(module / "config" / "crd" / "bases", draft, copy_function=shutil.copyfile)
    return folder
