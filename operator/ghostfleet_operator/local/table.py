"""The rows of a fleet as a table: drawn again and again on a terminal, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from ghostfleet_operator.local.rows import Row

_HEADER: Final = (
    "SERVER",
    "REPLICA",
    "URL",
    "READY",
    "RUNNING",
    "WAITING",
    "KV",
    "REVISION",
    "SYNCED",
    "RESTARTS",
    "NOTE",
)
_NUMBERS: Final = frozenset({"RUNNING", "WAITING", "KV", "REVISION", "RESTARTS"})


def cells(row: Row) -> tuple[str, ...]:
    """The texts of one row; `-` is unknown."""

    def number(value: int | None) -> str:
        return "-" if value is None else str(value)

    return (
        row.server,
        row.replica,
        row.url,
        "yes" if row.ready else "no",
        number(row.running),
        number(row.waiting),
        "-" if row.kv_usage is None else f"{row.kv_usage:.0%}",
        number(row.revision),
        "yes" if row.synced else "no",
        str(row.restarts),
        row.note,
    )


def plain(rows: Sequence[Row]) -> str:
    """Columns separated by spaces, for pipes and logs."""
    lines = [_HEADER, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def rich_table(rows: Sequence[Row]) -> Table:
    """The same for a terminal, fitted to its width by rich."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _HEADER:
        table.add_column(
            name, justify="right" if name in _NUMBERS else "left", no_wrap=name != "NOTE", overflow="ellipsis"
        )
    for row in rows:
        style = "" if row.synced else "yellow" if row.ready else "dim"
        table.add_row(*(Text(text) for text in cells(row)), style=style)
    return table
