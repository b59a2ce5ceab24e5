"""An image of the endpoint picker of the Gateway API Inference Extension, around the program built from its module."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from e2e import archive, cache
from e2e.build import binaries
from e2e.build.components import INFERENCE_EXTENSION

NAME = f"ghostfleet-e2e-epp:{INFERENCE_EXTENSION}"
PUBLIC = f"registry.k8s.io/gateway-api-inference-extension/epp:{INFERENCE_EXTENSION}"


def ensure() -> Path:
    """The archive of NAME, which starts as PUBLIC does."""
    kept = cache.root() / "images" / f"epp-{INFERENCE_EXTENSION}.tar"
    program = binaries.ensure(["epp"]) / "epp"
    with cache.exclusive("epp-image"):
        if not kept.exists():
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                shutil.copy2(program, root / "epp")
                (root / "tmp").mkdir()
                (root / "tmp").chmod(0o1777)
                archive.write(root, kept, archive.Image(tags=[f"docker.io/library/{NAME}"], entrypoint=["/epp"]))
    return kept
