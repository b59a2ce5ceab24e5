"""Which of the files a fleet was started from have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from watchfiles import awatch

_QUIET_MS: Final = 50
"""Changes that follow each other faster are one; an editor writes, renames and touches."""

_MOUNTED: Final = "..data"


async def changes(paths: Sequence[Path], stop: asyncio.Event) -> AsyncIterator[None]:
    """Yields after each change of one of `paths` or of a file in one that is a folder, until `stop` is set.

    Folders are watched rather than files: an editor replaces a file by renaming, and a mounted ConfigMap is replaced by
    renaming what its files are links into.
    """
    files = {path.absolute() for path in paths if not path.is_dir()}
    folders = {path.absolute() for path in paths if path.is_dir()}
    watched = {file.parent for file in files} | folders

    def concerns(_: object, name: str) -> bool:
        path = Path(name)
        return path in files or path.parent in folders or path.name == _MOUNTED

    for polling in (False, True):
        try:
            async for _ in awatch(
                *watched,
                watch_filter=concerns,
                step=_QUIET_MS,
                debounce=4 * _QUIET_MS,
                stop_event=stop,
                recursive=False,
                force_polling=polling,
            ):
                yield
        except OSError:  # the machine's limit of inotify watches is reached
            if polling:
                raise
        else:
            return
