"""A network namespace of a test's own, in which every address of the pods leads to this machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator

from tests.apiserver.control_plane import Unavailable

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def isolated(pods: str) -> Iterator[None]:
    """Run the block in a new network namespace where the range `pods` is local; raises Unavailable.

    It holds for this thread: every socket that the block opens and every process that it starts is in there. Nothing
    leads out of it, and nothing of it is left behind.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _call("unshare", _CLONE_NEWNET)
        try:
            for words in ("link set lo up", f"route add local {pods} dev lo"):
                _ip(words)
            yield
        finally:
            _call("setns", home, _CLONE_NEWNET)
    finally:
        os.close(home)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        raise Unavailable(f"no network namespace of its own: {name}: {os.strerror(ctypes.get_errno())}")


def _ip(words: str) -> None:
    try:
        subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        raise Unavailable(f"no network namespace of its own: ip {words}: {reason}") from None
