"""Cuts a small root file system out of a Debian one: programs, the libraries they load, and the links on the way."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from e2e import shell


def cut(debian: Path, target: Path, programs: list[str]) -> None:
    """Copy `programs` (names on PATH, or absolute paths in `debian`) with all they load to `target`."""
    for folder in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "run", "var", "proc", "sys", "dev"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for merged in ("bin", "sbin", "lib", "lib64"):
        (target / merged).symlink_to(f"usr/{merged}")
    for program in programs:
        path = program if program.startswith("/") else _inside(debian, "sh", "-c", f"command -v {program}")
        _copy(debian, target, Path(path))


def _copy(debian: Path, target: Path, path: Path) -> None:
    """Copy one file, given by its path inside `debian`, then what it links to or loads."""
    folder = Path(_inside(debian, "realpath", "-m", str(path.parent)))
    path = folder / path.name
    source, copy = debian / path.relative_to("/"), target / path.relative_to("/")
    if copy.is_symlink() or copy.exists():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, copy, follow_symlinks=False)
    if source.is_symlink():
        _copy(debian, target, folder / source.readlink())
        return
    for library in re.findall(r"/\S+", _libraries(debian, path)):
        _copy(debian, target, Path(library))


def _libraries(debian: Path, path: Path) -> str:
    """What `ldd` says: one library a line. It fails on scripts and static programs, which load none."""
    try:
        return _inside(debian, "ldd", str(path))
    except shell.Failure:
        return ""


def _inside(debian: Path, *command: str) -> str:
    return shell.run(["chroot", debian, *command]).strip()
