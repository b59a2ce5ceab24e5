"""What `make` offers, and what setting up says on a machine that lacks something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = (
    *("setup", "up", "down", "test", "check", "soak", "bench", "bench-operator", "bench-scale"),
    *("clients", "images", "crds", "e2e"),
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")


def set_up(python: str, path: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", ROOT / "tools" / "setup.sh", python, folder],
        capture_output=True, text=True, check=False, env={"PATH": path}, timeout=60,
    )  # fmt: skip


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("words", [[], ["help"]])
def test_make_alone_lists_every_target(words: list[str]) -> None:
    """Each target with a line that says what it does."""
    result = subprocess.run(["make", "-C", ROOT, *words], capture_output=True, text=True, check=True, timeout=60)
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines() if line.startswith("  make ")]
    assert [name for _, name, _ in lines] == ["help", *TARGETS]


def test_setting_up_twice_does_nothing() -> None:
    """A tree that is set up is left alone, so that other targets may ask for it each time."""
    result = subprocess.run(["make", "-C", ROOT, "setup"], capture_output=True, text=True, check=True, timeout=600)
    again = subprocess.run(["make", "-C", ROOT, "-n", "setup"], capture_output=True, text=True, check=True, timeout=60)
    assert "tools/setup.sh" not in again.stdout, result.stdout


def test_without_a_python_that_fits_one_line_says_so(tmp_path: Path) -> None:
    """The version that is needed, and how to name another Python."""
    old = script(tmp_path / "python3", "exit 1")
    result = set_up(old, str(tmp_path), tmp_path / "venv")
    assert result.returncode == 1
    assert result.stderr == (
        "ghostfleet setup: needs Python 3.11 or newer; install one, or name it: make setup PYTHON=/path/to/python3\n"
    )


def test_without_the_venv_module_one_line_names_the_package(tmp_path: Path) -> None:
    """Debian's python3 comes without ensurepip."""
    bare = script(tmp_path / "python3", f'case "$2" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"')
    result = set_up(bare, os.environ["PATH"], tmp_path / "venv")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f"ghostfleet setup: {bare} has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"
    )
