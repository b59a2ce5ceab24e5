"""Files that are made from the models: written, or compared with what is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def command(
    prog: str,
    description: str | None,
    files: Callable[[], Mapping[str, str]],
    arguments: Sequence[str] | None,
    *,
    differs: str,
) -> int:
    """A command line that writes `files` (path from the project's root, text) or checks them; the exit code.

    `differs` is said of a file that is not as it should be.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file differs")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="root of the project (default: here)")
    options = parser.parse_args(arguments)
    differing = []
    for name, text in files().items():
        path = options.root / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differing.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in differing:
        sys.stderr.write(f"{name}: {differs if options.check else 'written'}\n")
    return 1 if options.check and differing else 0
