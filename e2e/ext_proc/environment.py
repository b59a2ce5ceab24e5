"""The virtual environment that the gRPC client runs in."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from e2e import cache, shell

XDS_PROTOS = "1.85.0"


def python() -> Path:
    """The Python of an environment with `xds-protos`, made now if it never was. Raises Failure."""
    folder = cache.root() / f"xds-protos-{XDS_PROTOS}"
    marker = folder / "installed"
    with cache.exclusive("xds-protos"):
        if not marker.exists():
            with shell.step(f"installing xds-protos {XDS_PROTOS}"):
                cache.remove(folder)
                try:
                    venv.create(folder, with_pip=True)
                except subprocess.CalledProcessError as error:
                    raise shell.Failure("this Python cannot make virtual environments (python3-venv)") from error
                shell.run([folder / "bin" / "python", "-m", "pip", "install", "-q", f"xds-protos=={XDS_PROTOS}"])
                marker.touch()
    return folder / "bin" / "python"
