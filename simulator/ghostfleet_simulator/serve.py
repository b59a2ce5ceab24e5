"""`ghostfleet serve`: one server in this process, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.flags import Options
from ghostfleet_simulator.hosting.hosted import CannotListen, Hosted
from ghostfleet_simulator.hosting.process import on_stop_signal, return_large_blocks, spare_collector

_log = logging.getLogger("ghostfleet.serve")


async def _serve(config: ServerConfig, document: Document | None, options: Options) -> int:
    hosted = Hosted(config, document, options)
    triggered = False

    def told() -> None:
        nonlocal triggered
        if not triggered:
            triggered = True
            _log.info("[shutdown] API server: shutdown triggered")
            hosted.stop()

    on_stop_signal(told)
    spare_collector()
    return await hosted.run()


def run(config: ServerConfig, document: Document | None, options: Options) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. A taken port is one line and code 1."""
    return_large_blocks()
    try:
        return asyncio.run(_serve(config, document, options))
    except CannotListen as error:
        _log.error("%s", error)
        return 1
