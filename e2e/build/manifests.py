"""Manifests of programs that are not ours, from their Go modules."""

from __future__ import annotations

import shutil
from pathlib import Path

from e2e import cache
from e2e.build.components import COMPONENTS
from e2e.build.toolchain import find_go


def inference_extension() -> Path:
    """A folder with a CRD of the Gateway API Inference Extension in each `*.yaml`, as `epp` knows them. Raises Failure."""
    return _kept("epp", "config/crd/bases")


def metrics_server() -> Path:
    """A folder for `kubectl apply --kustomize` with all that metrics-server is made of. Raises Failure."""
    return _kept("metrics-server", "manifests/base")


def _kept(name: str, path: str) -> Path:
    """A copy of a folder of the module that a component is built from."""
    component = COMPONENTS[name]
    folder = cache.root() / "store" / f"{name}-manifests-{component.version}"
    with cache.exclusive("manifests"):
        if not folder.exists():
            module = Path(find_go().download(component.module, component.version)["Dir"])
            with cache.appearing(folder) as draft:
                shutil.copytree(module / path, draft, copy_function=shutil.copyfile)
                draft.chmod(0o755)  # folders of Go's module cache cannot be emptied, this one may be deleted
    return folder
