"""The rows of a fleet as a table: drawn again and again on a terminal, plain text elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from ghostfleet_operator.local.rows import RankRow, Row

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
_EVENTS: Final = "KV EVENTS"
_NUMBERS: Final = frozenset({"RUNNING", "WAITING", "KV", "REVISION", "RESTARTS"})


def header(rows: Sequence[Row]) -> tuple[str, ...]:
    """The names of the columns; the one for KV events is there where one of the rows has some."""
    return (*_HEADER[:3], _EVENTS, *_HEADER[3:]) if any(row.kv_events for row in rows) else _HEADER


def cells(row: Row, columns: Sequence[str] = _HEADER) -> tuple[str, ...]:
    """The texts of one row; `-` is unknown."""

    def number(value: int | None) -> str:
        return "-" if value is None else str(value)

    return (
        row.server,
        row.replica,
        row.url,
        *((row.kv_events or "-",) if _EVENTS in columns else ()),
        "yes" if row.ready else "no",
        number(row.running),
        number(row.waiting),
        "-" if row.kv_usage is None else f"{row.kv_usage:.0%}",
        number(row.revision),
        "yes" if row.synced else "no",
        str(row.restarts),
        row.note,
    )


def _rank_cells(row: Row, rank: RankRow, columns: Sequence[str]) -> tuple[str, ...]:
    """The texts of one rank, below those of its replica; empty where they are the same."""
    known = {
        "REPLICA": f"  rank {rank.rank}",
        "URL": rank.url if rank.url != row.url else "",
        _EVENTS: rank.kv_events or "-",
        "RUNNING": str(rank.running),
        "WAITING": str(rank.waiting),
        "KV": f"{rank.kv_usage:.0%}",
    }
    return tuple(known.get(name, "") for name in columns)


def lines(row: Row, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The texts of a replica, and of each of its ranks where there are several."""
    yield cells(row, columns)
    for rank in row.ranks:
        yield _rank_cells(row, rank, columns)


def plain(rows: Sequence[Row]) -> str:
    """Columns separated by spaces, for pipes and logs."""
    columns = header(rows)
    table = [columns, *(line for row in rows for line in lines(row, columns))]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def rich_table(rows: Sequence[Row]) -> Table:
    """The same for a terminal, fitted to its width by rich."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = header(rows)
    for name in columns:
        table.add_column(
            name, justify="right" if name in _NUMBERS else "left", no_wrap=name != "NOTE", overflow="ellipsis"
        )
    for row in rows:
        style = "" if row.synced else "yellow" if row.ready else "dim"
        for line in lines(row, columns):
            table.add_row(*(Text(text) for text in line), style=style)
    return table
