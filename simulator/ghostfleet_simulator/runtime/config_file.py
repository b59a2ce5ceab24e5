"""Following the configuration file of a running server: what is written there comes into force without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from watchfiles import awatch

from ghostfleet_simulator.document import Document, Refused
from ghostfleet_simulator.files import read_mapping
from ghostfleet_simulator.problems import InvalidInput

_log = logging.getLogger("ghostfleet.config")

# The watching thread wakes up once per step, beside a loop that paces tokens to the millisecond.
_STEP_MS: Final = 250
_DEBOUNCE_MS: Final = 1000
_LOOK_ANYWAY_MS: Final = 10_000


async def follow(path: Path, offer: Callable[[Document], object], known: Document | None = None) -> None:
    """Offer the document in `path` whenever the file changes, until cancelled.

    It is offered at once if it is another than `known`, which the process read when it started: the file may have
    changed since, and what has come into force since then (a patch) must not be undone by what was known before.

    The directory is watched and not the file, because Kubernetes changes a mounted ConfigMap by swapping a symbolic
    link beside it, and an editor by renaming. A document that cannot be read, is invalid or is refused is told in one
    line, and what is in force stays so. Now and then the file is looked at without a notice, in case one was lost.
    """
    follower = _Follower(path, offer, known)
    follower.look()
    async for _ in awatch(
        path.parent,
        watch_filter=None,
        recursive=False,
        step=_STEP_MS,
        debounce=_DEBOUNCE_MS,
        rust_timeout=_LOOK_ANYWAY_MS,
        yield_on_timeout=True,
    ):
        follower.look()


class _Follower:
    """Offers the content of a file when it differs from what was last offered, so a patch outlives other notices."""

    def __init__(self, path: Path, offer: Callable[[Document], object], known: Document | None) -> None:
        self._path = path
        self._offer = offer
        self._known = known and (known.revision, known.hash)
        self._seen: bytes | None = None
        self._complaint = ""
        self._was_empty = False

    def look(self) -> None:
        try:
            content = self._path.read_bytes()
            if content == self._seen or self._being_written(content):
                return
            document = Document.parse(read_mapping(self._path))
            if (document.revision, document.hash) != self._known:
                self._offer(document)
            self._known = None
        except OSError as error:
            self._complain(f"{error.strerror}")
            return  # not seen: tried again at the next look
        except (InvalidInput, Refused) as error:
            self._complain(str(error))
        else:
            self._complaint = ""
        self._seen = content

    def _being_written(self, content: bytes) -> bool:
        """Whether the file is empty for the first time: a plain write empties it before it fills it."""
        was_empty, self._was_empty = self._was_empty, not content
        return self._was_empty and not was_empty

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            _log.warning("%s is not taken over: %s", self._path, reason.replace("\n", " "))
