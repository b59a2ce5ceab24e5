"""The keys that admin tokens are derived from, in a file that may be replaced at any time."""

from __future__ import annotations

import logging
from pathlib import Path

from ghostfleet_operator.reconcile.token import SHORTEST_KEY

log = logging.getLogger("ghostfleet.operator")


class KeyFile:
    """One key a line, the newest first. A file that turns bad is complained of, and the keys that were in it go on."""

    def __init__(self, file: Path) -> None:
        """Reads the file; raises `OSError`, or `ValueError` with what is wrong with it."""
        self._file = file
        self._seen = self._stat()
        self._keys = self._read()

    def __call__(self) -> tuple[bytes, ...]:
        """The keys."""
        try:
            seen = self._stat()
            if seen != self._seen:
                self._seen = seen  # a bad one is complained of once
                self._keys = self._read()
                log.info("the key file has changed; keys in it: %d", len(self._keys))
        except OSError as error:
            if self._seen is not None:
                log.warning("the key file cannot be read, and its keys go on: %s", error)
            self._seen = None
        except ValueError as error:
            log.warning("the key file is of no use, and the keys that were in it go on: %s", error)
        return self._keys

    def _stat(self) -> tuple[int, int, int] | None:
        stat = self._file.stat()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def _read(self) -> tuple[bytes, ...]:
        keys = tuple(line.strip() for line in self._file.read_bytes().splitlines() if line.strip())
        if not keys or min(map(len, keys)) < SHORTEST_KEY:
            raise ValueError(f"{self._file} must hold a key of at least {SHORTEST_KEY} bytes on each line")
        return tuple(dict.fromkeys(keys))
