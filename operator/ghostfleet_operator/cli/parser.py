"""Argument parsing of the sub-commands: a wrong flag is one line that names the nearest right one."""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn

from ghostfleet_operator.cli.errors import CommandError, Exit


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations and without a usage text in front of an error."""

    def __init__(self, name: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"ghostfleet {name}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the command: `message` in one line, with the nearest flag where one was misspelt."""
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            word = unknown[1].partition("=")[0]
            message = f"{word}: unexpected argument"
            if word.startswith("-"):
                message = f"{word}: unknown flag{self._guess(word)}"
        message = re.sub(r"^argument ((?:[^:/]+/)?)([^:/]+): ", r"\2: ", message)
        raise CommandError(message, Exit.USAGE)

    def _guess(self, word: str) -> str:
        import difflib  # noqa: PLC0415 - only a mistake needs it

        flags = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(word, flags, n=1)
        return f"; did you mean {close[0]}?" if close else f"; `{self.prog} --help` lists all"


def say(text: str) -> None:
    """A line of progress, on standard error: standard output carries results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def tell(text: str) -> None:
    """A line of a result, on standard output."""
    print(text, flush=True)  # noqa: T201
