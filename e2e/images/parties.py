"""Images of programs that are not ours and that pods of the tests run, each around one built from its module."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e import archive, cache
from e2e.build import binaries
from e2e.build.components import COMPONENTS


@dataclass(frozen=True)
class Party:
    """An image that starts as the public one of a repository does, which is for clusters that can pull."""

    component: str
    repository: str

    @property
    def name(self) -> str:
        """What pods call the image that `ensure` makes."""
        return f"ghostfleet-e2e-{self.component}:{COMPONENTS[self.component].version}"

    @property
    def public(self) -> str:
        """The image that the program's own project publishes."""
        return f"{self.repository}:{COMPONENTS[self.component].version}"

    def ensure(self) -> Path:
        """The archive of `name`: the program and an empty /tmp."""
        kept = cache.root() / "images" / f"{self.name.replace(':', '-')}.tar"
        program = binaries.ensure([self.component]) / self.component
        with cache.exclusive(f"{self.component}-image"):
            if not kept.exists():
                with tempfile.TemporaryDirectory() as folder:
                    root = Path(folder)
                    shutil.copy2(program, root / self.component)
                    (root / "tmp").mkdir()
                    (root / "tmp").chmod(0o1777)
                    image = archive.Image(tags=[f"docker.io/library/{self.name}"], entrypoint=[f"/{self.component}"])
                    archive.write(root, kept, image)
        return kept


EPP = Party("epp", "registry.k8s.io/gateway-api-inference-extension/epp")
METRICS_SERVER = Party("metrics-server", "registry.k8s.io/metrics-server/metrics-server")
