"""Log lines for people (`text`) or for machines (`json`), on standard error."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from ghostfleet_simulator.config import LogFormat, LogLevel


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LogFiles(logging.Handler):
    """Writes each line to the file of the server that it is about, and to standard error where it is about none.

    Which server that is goes with the context: all that a server does begins in one task.
    """

    _file: ClassVar[ContextVar[Path | None]] = ContextVar("file", default=None)

    @classmethod
    def use(cls, file: Path) -> None:
        """Have lines of this task, and of all that it begins, go to `file`."""
        cls._file.set(file)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line. Servers say little, and a thousand open files are a lot: the file is opened each time."""
        line = f"{self.format(record)}\n"
        file = self._file.get()
        try:
            if file is not None:
                with file.open("a", encoding="utf-8", errors="backslashreplace") as log:
                    log.write(line)
                return
        except OSError:
            pass
        sys.stderr.write(line)


def set_up(level: LogLevel, log_format: LogFormat, handler: logging.Handler | None = None) -> None:
    """Configure the root logger of this process; called once, by a command. Without a handler lines go to stderr."""
    handler = handler or logging.StreamHandler(sys.stderr)
    if log_format is LogFormat.JSON:
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line per request of a client library, or per connection of a server, says nothing that a metric does not.
    for chatty in ("httpx", "httpcore", "uvicorn.error", "uvicorn.access", "watchfiles"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
