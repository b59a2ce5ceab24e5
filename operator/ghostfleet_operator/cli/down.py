"""`ghostfleet down`: stops the fleet of this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from ghostfleet_operator.cli.errors import CommandError, Exit
from ghostfleet_operator.cli.parser import Parser, say
from ghostfleet_operator.local.state import StateFolder, command_line, default_folder


def main(argv: Sequence[str]) -> int:
    """Stops the fleet and waits until no process of it is left; no fleet is no failure."""
    parser = Parser("down", "Stops the fleet that runs on this machine and waits until it is gone.")
    parser.add_argument("--now", action="store_true", help="do not let running requests end")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="longest wait (%(default)s)")
    parser.add_argument("--state", metavar="DIR", help="folder of the fleet")
    given = parser.parse_args(argv)
    folder = StateFolder(Path(given.state) if given.state else default_folder(os.environ))
    supervisor = folder.holder()
    if supervisor is None:
        left = folder.end_leftovers()
        folder.forget()
        say(f"ended {left} processes that a killed supervisor left behind" if left else "no fleet runs")
        return Exit.OK
    folder.signal(signal.SIGTERM)
    if given.now:
        time.sleep(0.1)  # the second signal must not be merged with the first
        folder.signal(signal.SIGTERM)
    end = time.monotonic() + given.timeout
    while time.monotonic() < end:
        if folder.holder() != supervisor and not command_line(supervisor):
            say("the fleet is stopped")
            return Exit.OK
        time.sleep(0.05)
    raise CommandError(
        f"the fleet has not stopped within {given.timeout:g} s; `ghostfleet down --now` does not wait for requests",
        Exit.TIMED_OUT,
    )
