"""Comments that keep a silent stream open through proxies.

Source: vLLM 0.33 entrypoints/serve/utils/sse_keep_alive.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_COMMENT: Final = b": keep-alive\n\n"
_CHUNK: Final = b"%x\r\n%b\r\n" % (len(_COMMENT), _COMMENT)
_LOOKS: Final = 4
"""How often a stream is looked at within the interval: tokens themselves are not to pay for this."""


class KeepAlive:
    """Writes a comment whenever a stream has not moved on for `seconds`, at most a quarter of that late."""

    def __init__(self, seconds: float, write: Callable[[bytes], None], progress: Callable[[], int | None]) -> None:
        """`progress` changes with everything that is sent; None means that nothing may be sent now."""
        self._seconds = seconds
        self._write = write
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._seen = progress()
        self._since = self._loop.time()
        self._timer = self._loop.call_later(seconds / _LOOKS, self._look)

    def _look(self) -> None:
        now, progress = self._loop.time(), self._progress()
        if progress is None or progress != self._seen:
            self._seen, self._since = progress, now
        elif now - self._since >= self._seconds:
            self._since = now
            self._write(_CHUNK)
        self._timer = self._loop.call_later(self._seconds / _LOOKS, self._look)

    def stop(self) -> None:
        """Write no more."""
        self._timer.cancel()
