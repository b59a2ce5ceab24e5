"""`ghostfleet apply`: changes objects of the fleet that runs on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ghostfleet_operator.cli.errors import CommandError, Exit
from ghostfleet_operator.cli.parser import Parser, say, tell
from ghostfleet_operator.cli.status import running_fleet
from ghostfleet_operator.local import applied
from ghostfleet_operator.local.objects import read
from ghostfleet_operator.local.state import StateFolder, default_folder
from ghostfleet_operator.local.supervisor import RELOAD_SIGNAL

_EPILOG = """\
An applied object replaces the one of the same kind and name, or is added. It counts until the object is edited in the
file that the fleet was started from, or the fleet is stopped.
"""


def main(argv: Sequence[str]) -> int:
    """Applies objects and waits until they are in force."""
    parser = Parser("apply", "Changes or adds objects of the running fleet.", _EPILOG)
    parser.add_argument(
        "-f", "--file", action="append", required=True, metavar="FILE", help="YAML file or folder; repeat for more"
    )
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="longest wait; 0 does not wait (%(default)s)"
    )
    parser.add_argument("--state", metavar="DIR", help="folder of the fleet")
    given = parser.parse_args(argv)
    folder = StateFolder(Path(given.state) if given.state else default_folder(os.environ))
    fleet = running_fleet(folder)
    new = read([Path(file) for file in given.file])
    for line in new.skipped:
        say(line)
    files = read([Path(file) for file in fleet["files"]])
    current = applied.over(folder.applied_file, files)
    new.over(current).resolved()
    applied.put(folder.applied_file, new, files)
    if not folder.signal(RELOAD_SIGNAL):
        raise CommandError("the fleet has just stopped")
    for key, source in new.sources.items():
        before = current.sources.get(key)
        verb = "added" if before is None else "unchanged" if before.raw == source.raw else "changed"
        tell(f"{key} {verb}")
    return _wait(folder, fleet["loaded"], given.timeout)


def _wait(folder: StateFolder, loaded: int, timeout: float) -> int:
    end = time.monotonic() + timeout
    while timeout and time.monotonic() < end:
        time.sleep(0.05)
        fleet = running_fleet(folder)
        if fleet["loaded"] > loaded:
            if fleet["problems"]:
                raise CommandError("; ".join(fleet["problems"]), Exit.USAGE)
            if all(server["settled"] for server in fleet["servers"]):
                return Exit.OK
    if not timeout:
        return Exit.OK
    raise CommandError(
        f"not everything is in force after {timeout:g} s; `ghostfleet status{folder.flag}` tells more",
        Exit.TIMED_OUT,
    )
