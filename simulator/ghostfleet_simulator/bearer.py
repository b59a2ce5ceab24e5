"""The bearer tokens of the admin API: which are accepted, and the form of one that only a single pod accepts."""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

_log = logging.getLogger("ghostfleet.admin")


def bound(token: bytes, pod: str, address: str) -> str:
    """A token that opens the admin API of one pod, and of no other one that has the same token file.

    Whoever sends it to an address at which another pod answers by now has given away nothing: it opens only a pod of
    this name at this address, which is gone.
    """
    return hmac.new(token, f"{pod}/{address}".encode(), hashlib.sha256).hexdigest()


class Bearer:
    """Tokens in a file that may be replaced at any time, one a line: the newest first, then those that still count.

    In a pod, told by its name and its address, each of them is accepted in its bound form, too.
    """

    def __init__(self, file: Path, pod: str = "", address: str = "") -> None:
        self._file = file
        self._pod = (pod, address) if pod and address else None
        self._read_as: tuple[int, int, int] | None = None
        self._accepted: tuple[bytes, ...] = ()
        self._complaint = ""

    def accepts(self, authorization: str) -> bool:
        """Whether the value of an Authorization header is good; takes the same time whatever is wrong with a token."""
        scheme, _, given = authorization.partition(" ")
        token, found = given.strip().encode(), False
        for accepted in self._current():
            found |= hmac.compare_digest(token, accepted)
        return found and scheme.lower() == "bearer"

    def _current(self) -> tuple[bytes, ...]:
        """What is accepted; nothing while the file cannot be read or is empty."""
        try:
            stat = self._file.stat()
            read_as = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if read_as != self._read_as:
                self._accepted = self._forms(self._file.read_bytes().splitlines())
                self._read_as = read_as
                self._complain("" if self._accepted else "it is empty")
        except OSError as error:
            self._read_as, self._accepted = None, ()
            self._complain(error.strerror or str(error))
        return self._accepted

    def _forms(self, lines: list[bytes]) -> tuple[bytes, ...]:
        tokens = [line.strip() for line in lines if line.strip()]
        others = [bound(token, *self._pod).encode() for token in tokens] if self._pod else []
        return (*tokens, *others)

    def _complain(self, reason: str) -> None:
        if reason and reason != self._complaint:
            _log.error("the admin API lets nobody in: no token in %s: %s", self._file, reason)
        self._complaint = reason
