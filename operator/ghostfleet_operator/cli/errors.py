"""How a command ends when it does not end well."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, the same for every sub-command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    """A flag or an input is wrong."""
    NOT_CONVERGED = 3
    """Told what is, and not all of it is as wanted."""
    TIMED_OUT = 124
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends a command with one line on standard error and an exit code; raised with a message for a person."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        self.code = code
        super().__init__(message)
