"""Where things that are slow to make are kept between runs, and the locks that let runs share them."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def root() -> Path:
    """The cache folder: `$GHOSTFLEET_CACHE`, or `~/.cache/ghostfleet`. Created when missing."""
    folder = Path(os.environ.get("GHOSTFLEET_CACHE") or Path.home() / ".cache" / "ghostfleet")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold the machine-wide lock `name`. It ends with the process, however that ends."""
    path = root() / f"{name}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another run that holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Make a file or folder that appears under `path` whole or not at all: yields the temporary name to fill."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        draft.rename(path)
    finally:
        remove(draft)


def remove(path: Path) -> None:
    """Remove a file or a folder tree; one that is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
