"""Programs from PyPI, each package in a virtual environment of its own in the cache."""

from __future__ import annotations

import sys
from pathlib import Path

from e2e import cache, shell


def programs(package: str, version: str = "", *, python: str = sys.executable) -> Path:
    """The `bin` folder of an environment with `package`, made with `python` at first use; by default the newest.

    The marker is written last, so half an install is done again. Raises Failure.
    """
    name, requirement = (f"{package}-{version}", f"{package}=={version}") if version else (package, package)
    folder = cache.root() / name
    marker = folder / "installed"
    with cache.exclusive(name):
        if not marker.exists():
            with shell.step(f"installing {requirement} from PyPI"):
                cache.remove(folder)
                shell.run([python, "-m", "venv", folder])
                shell.run([folder / "bin" / "python", "-m", "pip", "install", "-q", requirement])
                marker.touch()
    return folder / "bin"
