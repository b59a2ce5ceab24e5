"""What kind's own Go module says about its nodes: files, image names, the storage manifest."""

from __future__ import annotations

import re
from pathlib import Path

from e2e.build.components import COMPONENTS
from e2e.build.toolchain import find_go


class KindModule:
    """The sources of the kind that is built, in Go's module cache."""

    def __init__(self) -> None:
        """Fetch the module when it is not in Go's cache."""
        kind = COMPONENTS["kind"]
        self._folder = Path(find_go().download(kind.module, kind.version)["Dir"])
        self._text = (self._folder / "pkg/build/nodeimage/const_storage.go").read_text()
        self._strings: dict[str, str] = dict(re.findall(r'^const (\w+) = "([^"]+)"', self._text, re.MULTILINE))

    @property
    def node_files(self) -> Path:
        """The tree that kind lays over the root of a node: units, containerd's configuration, the entrypoint."""
        return self._folder / "images/base/files"

    @property
    def provisioner_image(self) -> str:
        """The name under which the storage manifest asks for local-path-provisioner."""
        return self._strings["storageProvisionerImage"]

    @property
    def helper_image(self) -> str:
        """The name of the image in which the provisioner makes and removes folders."""
        return self._strings["storageHelperImage"]

    @property
    def sandbox_image(self) -> str:
        """The name of the pause image that the node's containerd asks for."""
        configuration = (self.node_files / "etc/containerd/config.toml").read_text()
        found = re.search(r'^\s*sandbox_image = "(.*)"', configuration, re.MULTILINE)
        assert found, "kind's containerd configuration names a sandbox image"
        return found[1]

    def storage_manifest(self) -> str:
        """The default storage class and its provisioner: a Go raw string with two image names spliced in."""
        found = re.search(r"^const defaultStorageManifest = `(.*)`\s*$", self._text, re.DOTALL | re.MULTILINE)
        assert found, "kind's sources hold a storage manifest"
        return re.sub(r"`\s*\+\s*(\w+)\s*\+\s*`", lambda splice: self._strings[splice[1]], found[1])
