"""`ghostfleet up`: a fleet of servers on this machine."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from ghostfleet_operator.cli.errors import CommandError, Exit
from ghostfleet_operator.cli.parser import Parser, say, tell
from ghostfleet_operator.local.objects import read
from ghostfleet_operator.local.processes import open_files
from ghostfleet_operator.local.rows import Row
from ghostfleet_operator.local.state import AlreadyRunning, StateFolder, default_folder
from ghostfleet_operator.local.supervisor import Plan, Supervisor, curl_line
from ghostfleet_operator.local.table import rich_table

_EPILOG = """\
The files hold SimulatedModelServer objects and their profiles, as for a cluster, and are followed while the fleet runs:
times, failures and answers change at once and without a restart, other settings restart the replicas of their server
one after another. Each replica has an address of its own (127.0.0.2, .3, ...) with the ports of a pod.
"""

MOST_SERVERS: Final = 1000
"""In one process: a thousand of them keep a core busy with being asked for their metrics once a second."""


class PlainOutput:
    """Lines on standard error, the address of the fleet on standard output."""

    shows_rows = False

    def say(self, text: str) -> None:
        """One line with the time of day."""
        say(f"{time.strftime('%H:%M:%S')} {text}")

    def show(self, rows: Sequence[Row]) -> None:
        """Rows are for terminals."""

    def ready(self, fleet: Mapping[str, Any]) -> None:
        """Tells how to talk to the fleet."""
        line = curl_line(fleet)
        if line:
            tell(line)


class TableOutput:
    """A table at the bottom of a terminal, lines above it."""

    shows_rows = True

    def __init__(self, live: Live) -> None:
        self._live = live

    def say(self, text: str) -> None:
        """One line above the table."""
        self._live.console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False, soft_wrap=True)

    def show(self, rows: Sequence[Row]) -> None:
        """Draws the table again."""
        self._live.update(rich_table(rows), refresh=True)

    def ready(self, fleet: Mapping[str, Any]) -> None:
        """Tells how to talk to the fleet."""
        line = curl_line(fleet)
        if line:
            self._live.console.print(f"\n{line}\n", markup=False, highlight=False, soft_wrap=True)


def main(argv: Sequence[str]) -> int:
    """Runs a fleet until told to stop or, with --detach, until it runs."""
    parser = Parser("up", "Starts a fleet of simulated servers on this machine.", _EPILOG)
    parser.add_argument(
        "-f", "--file", action="append", required=True, metavar="FILE", help="YAML file or folder; repeat for more"
    )
    parser.add_argument("-d", "--detach", action="store_true", help="return when all servers are ready")
    parser.add_argument(
        "--state", metavar="DIR", help="folder of this fleet; another folder is another fleet beside it"
    )
    parser.add_argument(
        "--drain",
        type=int,
        default=30,
        metavar="SECONDS",
        help="longest time for running requests at a stop (%(default)s)",
    )
    parser.add_argument(
        "--timeout", type=float, default=120, metavar="SECONDS", help="longest wait of --detach (%(default)s)"
    )
    parser.add_argument(
        "--servers-per-process",
        type=int,
        default=1,
        metavar="N",
        help="how many servers share a process; with 50 a thousand fit on a laptop (%(default)s)",
    )
    given = parser.parse_args(argv)
    if not 0 <= given.drain <= 3600:
        parser.error("argument --drain: must be 0 to 3600")
    if not 1 <= given.servers_per_process <= MOST_SERVERS:
        parser.error(f"argument --servers-per-process: must be 1 to {MOST_SERVERS}")
    if (needed := open_files(given.servers_per_process)) > (limit := resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        parser.error(
            f"argument --servers-per-process: {given.servers_per_process} servers need {needed} open files, and a "
            f"process may have {limit} (`ulimit -Hn`)"
        )
    folder = StateFolder(Path(given.state) if given.state else default_folder(os.environ))
    plan = Plan(tuple(Path(file) for file in given.file), folder, given.drain, given.servers_per_process)
    if folder.holder() is not None:
        raise _already_running(folder)
    if given.detach:
        return _detached(plan, given.timeout)
    return _attached(plan)


def _attached(plan: Plan) -> int:
    console = Console()
    try:
        with plan.folder.held():
            if console.is_terminal:
                with Live(console=console, auto_refresh=False, transient=True) as live:
                    asyncio.run(Supervisor(plan, TableOutput(live)).run())
            else:
                asyncio.run(Supervisor(plan, PlainOutput()).run())
    except AlreadyRunning:
        raise _already_running(plan.folder) from None
    return Exit.OK


def _already_running(folder: StateFolder) -> CommandError:
    fleet = folder.fleet() or {}
    files = ", ".join(fleet.get("files", [])) or "?"
    return CommandError(
        f"a fleet runs already (process {folder.holder() or '?'}, from {files}): "
        f"`ghostfleet down{folder.flag}` stops it, `ghostfleet apply -f FILE{folder.flag}` changes it, "
        f"{'another --state' if folder.flag else '--state'} DIR starts another one beside it"
    )


def _detached(plan: Plan, timeout: float) -> int:
    read(plan.files).resolved()  # what is wrong with the files is told here rather than in a log
    folder = plan.folder
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = [f"--file={file}" for file in plan.files]
    flags = [f"--state={folder.path}", f"--drain={plan.drain_seconds}"]
    flags += [f"--servers-per-process={plan.servers_per_process}"]
    with folder.log_file.open("wb") as log:
        supervisor = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-P", "-m", "ghostfleet_operator.cli.main", "up", *files, *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            if supervisor.poll() is not None:
                words = folder.log_file.read_text(errors="replace").strip().splitlines()
                raise CommandError(f"the fleet did not start: {words[-1] if words else 'it said nothing'}")
            fleet = folder.fleet() or {}
            if fleet.get("pid") == supervisor.pid and fleet.get("phase") == "running":
                count = sum(len(server["replicas"]) for server in fleet["servers"])
                status, down = f"`ghostfleet status{folder.flag}`", f"`ghostfleet down{folder.flag}`"
                runs, them = ("replica runs", "it") if count == 1 else ("replicas run", "them")
                say(f"{count} {runs}; {status} shows {them}, {down} stops {them}")
                line = curl_line(fleet)
                if line:
                    tell(line)
                return Exit.OK
            time.sleep(0.05)
    except KeyboardInterrupt:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait()
        raise
    raise CommandError(
        f"not every server is ready after {timeout:g} s; it goes on in the background (log: {folder.log_file})",
        Exit.TIMED_OUT,
    )
