"""Log lines for people (`text`) or for machines (`json`), on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

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


def set_up(level: LogLevel, log_format: LogFormat) -> None:
    """Configure the root logger of this process; called once, by a command."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format is LogFormat.JSON:
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line per request of a client library, or per connection of a server, says nothing that a metric does not.
    for chatty in ("httpx", "httpcore", "uvicorn.error", "uvicorn.access", "watchfiles"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
