"""Virtual environments of programs that tests run and that this project does not depend on, each made once."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from e2e import cache, shell


def python_with(*requirements: str) -> Path:
    """The Python of an environment that has these packages, such as `sglang-router==0.3.2`; programs are run as `-m`.

    It is made at the first call; two runs at once do not collide, and one that is interrupted leaves nothing half-made.
    Raises Failure.
    """
    name = hashlib.sha256(f"{sys.version}\n{' '.join(requirements)}".encode()).hexdigest()[:12]
    folder = cache.root() / "environments" / name
    if not folder.exists():
        with cache.exclusive("environments"):
            if not folder.exists():
                _make(folder, requirements)
    return folder / "bin" / "python"


def _make(folder: Path, requirements: tuple[str, ...]) -> None:
    with shell.step(f"installing {' '.join(requirements)}"), cache.appearing(folder) as draft:
        shell.run([sys.executable, "-m", "venv", draft])
        pip = [draft / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        shell.run([*pip, *requirements])
