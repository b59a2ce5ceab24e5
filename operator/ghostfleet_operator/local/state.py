"""The folder that a running fleet keeps: who runs it, what runs, the admin token, and the files of its replicas."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ghostfleet_simulator.problems import InvalidInput, Problem

_SUFFIX: Final = "ghostfleet"


def default_folder(environ: Mapping[str, str]) -> Path:
    """`$XDG_RUNTIME_DIR/ghostfleet` where that is a folder we may write, else `~/.local/state/ghostfleet`."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / _SUFFIX
    state = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / _SUFFIX


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces a file at once: a reader sees the old text or the new one, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class AlreadyRunning(Exception):
    """A supervisor holds the folder."""


class StateFolder:
    """One fleet's folder; every file in it is readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def flag(self) -> str:
        """What a command line needs at its end to mean this fleet; empty where the folder is the default one."""
        return "" if self.path == default_folder(os.environ).absolute() else f" --state {shlex.quote(str(self.path))}"

    @property
    def token_file(self) -> Path:
        """Bearer token of the admin APIs."""
        return self.path / "admin-token"

    @property
    def endpoints_file(self) -> Path:
        """Endpoints in the format of the EPP's file discovery."""
        return self.path / "endpoints.yaml"

    @property
    def log_file(self) -> Path:
        """What a supervisor in the background says."""
        return self.path / "supervisor.log"

    @property
    def processes_log(self) -> Path:
        """What the processes say that is about none of their servers."""
        return self.path / "processes.log"

    @property
    def applied_file(self) -> Path:
        """Objects that `ghostfleet apply` put over those of the files."""
        return self.path / "applied.json"

    def replica_folder(self, namespace: str, replica: str) -> Path:
        """Folder of one replica: its document and its log."""
        return self.path / "replicas" / namespace / replica

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder for as long as this process lives; raises `AlreadyRunning`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInput([Problem(f"--state {self.path}", f"cannot be used: {error.strerror}")]) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
        except BlockingIOError:
            raise AlreadyRunning from None
        finally:
            os.close(descriptor)

    def holder(self) -> int | None:
        """Process id of the supervisor that runs, if one does."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.read(descriptor, 20).strip()
            return int(written) if written.isdigit() else None
        finally:
            os.close(descriptor)
        return None

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal to the supervisor that runs; False if none does any more."""
        holder = self.holder()
        if holder is None:
            return False
        try:
            os.kill(holder, number)
        except ProcessLookupError:
            return False
        return True

    def new_token(self) -> str:
        """A fresh admin token, in its file."""
        token = secrets.token_urlsafe(32)
        write_atomically(self.token_file, token + "\n", mode=0o600)
        return token

    def token(self) -> str:
        """The admin token in its file; empty where there is none."""
        try:
            return self.token_file.read_text().strip()
        except OSError:
            return ""

    def write_fleet(self, fleet: Mapping[str, Any]) -> None:
        """Publishes what runs."""
        write_atomically(self.path / "fleet.json", json.dumps(fleet, indent=1) + "\n", mode=0o600)

    def fleet(self) -> dict[str, Any] | None:
        """What the last supervisor of the folder published."""
        try:
            content = json.loads((self.path / "fleet.json").read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def forget(self) -> None:
        """Removes what says that a fleet runs; logs and documents stay for a look afterwards."""
        for name in ("fleet.json", "admin-token", "endpoints.yaml", "applied.json"):
            (self.path / name).unlink(missing_ok=True)

    def leftovers(self) -> list[int]:
        """Processes of replicas in this folder that live though their supervisor does not."""
        fleet = self.fleet() or {}
        pids = {replica.get("pid") for server in fleet.get("servers", []) for replica in server.get("replicas", [])}
        return [pid for pid in pids if isinstance(pid, int) and str(self.path) in command_line(pid)]

    def end_leftovers(self, patience: float = 5.0) -> int:
        """Ends the processes that a killed supervisor left; returns how many there were."""
        pids = alive = self.leftovers()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in alive:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            end = time.monotonic() + patience
            while alive and time.monotonic() < end:
                time.sleep(0.05)
                alive = self.leftovers()
        return len(pids)


def command_line(pid: int) -> str:
    """The command line of a process, to be sure that a number still means the process it meant; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
    except OSError:
        return ""
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607 - ps
    return listing.stdout
