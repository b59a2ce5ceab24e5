"""How the replicas of a fleet are shown."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from pathlib import Path

from tests.local.conftest import COMMAND, server, until

from ghostfleet_operator.local.rows import RankRow, Row
from ghostfleet_operator.local.table import plain


def row(**changes: object) -> Row:
    given = {
        "server": "one", "replica": "one-0", "url": "http://127.0.0.2:8000", "ready": True, "running": 3, "waiting": 0,
        "kv_usage": 0.256, "revision": 4, "synced": True, "restarts": 0, "note": "",
    }  # fmt: skip
    return Row(**{**given, **changes})  # type: ignore[arg-type]


def test_plain_rows_are_columns_without_ornament() -> None:
    """Output that is piped can be cut at spaces; unknown numbers are dashes."""
    lines = plain(
        [row(), row(replica="one-1", ready=False, running=None, kv_usage=None, synced=False, note="starts")]
    ).splitlines()
    assert " ".join(lines[0].split()) == "SERVER REPLICA URL READY RUNNING WAITING KV REVISION SYNCED RESTARTS NOTE"
    assert lines[1].split() == ["one", "one-0", "http://127.0.0.2:8000", "yes", "3", "0", "26%", "4", "yes", "0"]
    assert lines[2].split() == ["one", "one-1", "http://127.0.0.2:8000", "no", "-", "0", "-", "4", "no", "0", "starts"]


def test_there_is_a_column_for_kv_events_where_a_replica_has_some() -> None:
    """With what a subscriber connects to."""
    lines = plain([row(), row(replica="one-1", kv_events="tcp://127.0.0.3:5557")]).splitlines()
    assert lines[0].split()[2:5] == ["URL", "KV", "EVENTS"]
    assert [line.split()[3] for line in lines[1:]] == ["-", "tcp://127.0.0.3:5557"]


def test_ranks_are_below_their_replica() -> None:
    """What each has of its own; a replica of one rank has no such line."""
    urls = [f"http://127.0.0.2:{port}" for port in (8000, 8001)]
    ranks = tuple(RankRow(number, url, 2 - number, 0, number / 2, None) for number, url in enumerate(urls))
    lines = plain([row(ranks=ranks), row(replica="one-1")]).splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["rank", "0", "2", "0", "0%"],
        ["rank", "1", urls[1], "1", "0", "50%"],
    ]
    assert len(lines) == 5
    assert row(ranks=ranks).to_json()["ranks"][1] == {
        "rank": 1, "url": urls[1], "running": 1, "waiting": 0, "kvUsage": 0.5, "kvEvents": None,
    }  # fmt: skip


def test_a_row_as_json_has_the_names_of_the_api() -> None:
    """CamelCase, as everywhere in our JSON."""
    assert row().to_json()["kvUsage"] == 0.256
    assert "kv_usage" not in row().to_json()


def test_on_a_terminal_the_table_is_live_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    """`up` in a terminal draws the replicas and the command to try; Ctrl-C typed there stops all."""
    file = tmp_path / "fleet.yaml"
    file.write_text(server("one"))
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    # Variables that speak of another terminal would count for more than this one's size.
    others = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *COMMAND, "up", "-f", str(file), "--state", str(tmp_path / "state")],
        stdin=terminal, stdout=terminal, stderr=terminal, env={**others, "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    seen = bytearray()

    def follow() -> None:
        while True:
            try:
                seen.extend(os.read(controller, 65536))
            except OSError:
                return

    threading.Thread(target=follow, daemon=True).start()

    def text() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))

    until(lambda: "curl -N http://127." in text(), "the command to try is shown")
    until(
        lambda: re.search(r"one +one-0 +http://127\.\S+ +yes +0 +0 +0% +1 +yes +0", text()),
        "the replica is in the table",
    )
    assert "SERVER" in text()
    os.write(controller, b"\x03")
    assert process.wait(30) == 0
    until(lambda: "stopping; requests that run may end" in text(), "the stop is announced")
    assert "Traceback" not in text()
    os.close(controller)
