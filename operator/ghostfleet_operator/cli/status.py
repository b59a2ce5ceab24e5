"""`ghostfleet status`: what the fleet of this machine is doing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ghostfleet_operator.cli.errors import CommandError, Exit
from ghostfleet_operator.cli.parser import Parser, say, tell
from ghostfleet_operator.local.push import admin_client
from ghostfleet_operator.local.rows import Row, rows
from ghostfleet_operator.local.state import StateFolder, default_folder
from ghostfleet_operator.local.table import plain, rich_table


def main(argv: Sequence[str]) -> int:
    """Shows every replica; 0 if all is as wanted, 3 if not, 1 if no fleet runs."""
    parser = Parser(
        "status",
        "Shows the replicas of the fleet that runs on this machine.",
        "Exit codes: 0 all is as wanted, 3 not yet, 1 no fleet runs.",
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the answer")
    parser.add_argument("--state", metavar="DIR", help="folder of the fleet")
    given = parser.parse_args(argv)
    folder = StateFolder(Path(given.state) if given.state else default_folder(os.environ))
    fleet = running_fleet(folder)
    found = asyncio.run(_rows(fleet, folder.token()))
    if given.output == "json":
        tell(json.dumps({**fleet, "rows": [row.to_json() for row in found]}, indent=1))
    elif (console := Console()).is_terminal:
        console.print(rich_table(found))
    else:
        tell(plain(found))
    for problem in fleet["problems"]:
        say(f"not taken over: {problem}")
    settled = not fleet["problems"] and all(server["settled"] for server in fleet["servers"])
    return Exit.OK if settled and all(row.synced for row in found) else Exit.NOT_CONVERGED


def running_fleet(folder: StateFolder) -> dict[str, Any]:
    """What the fleet published; a `CommandError` if none runs."""
    fleet = folder.fleet()
    if folder.holder() is None or fleet is None:
        raise CommandError(f"no fleet runs (state folder {folder.path}); `ghostfleet up -f FILE` starts one")
    return fleet


async def _rows(fleet: dict[str, Any], token: str) -> list[Row]:
    async with admin_client() as client:
        return await rows(fleet, token, client)
