"""Running other programs, and the one exception that says in words why something could not be done."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

Command = Sequence[str | Path]


class Failure(Exception):
    """Something could not be done. The message is for a person: what failed, and the last words of the tool."""


def run(command: Command, *, cwd: Path | None = None, env: Mapping[str, str] | None = None, text: str = "") -> str:
    """Run a command with `text` on its standard input; its standard output. Raises Failure with the end of the rest."""
    try:
        done = subprocess.run(command, check=False, cwd=cwd, env=env, input=text, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Failure(f"{command[0]}: no such program") from error
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise Failure(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{said}")
    return done.stdout


def succeeds(command: Command, *, env: Mapping[str, str] | None = None, timeout: float = 60) -> bool:
    """Whether a command exists and ends with exit code 0 within `timeout` seconds. Its output is dropped."""
    try:
        done = subprocess.run(command, check=False, env=env, capture_output=True, timeout=timeout)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def say(message: str) -> None:
    """Tell the person who waits. Standard output is kept for results."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step that takes a while, and how long it took."""
    began = time.monotonic()
    say(f"{what} ...")
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")


def exit_with(name: str, main: Callable[[], int]) -> NoReturn:
    """End the process as `main` says: a Failure is told in words, and a signal lets clean-up run first."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = main()
    except Failure as failure:
        say(f"{name}: {failure}")
        code = 1
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        code = 128 + signal.SIGINT
    sys.exit(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
