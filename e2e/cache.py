"""Where things that are slow to make are kept between runs, and the locks that let runs share them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e import shell


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
            shell.say(f"waiting for another run that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Make a file or folder that appears under `path` whole or not at all: yields the temporary name to fill.

    Callers hold the lock of whatever they make, so a draft that is already there is left from a run that was killed.
    """
    draft = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(draft)
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
