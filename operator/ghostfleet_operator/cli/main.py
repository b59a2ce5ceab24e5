"""Entry of the `ghostfleet` command: finds the sub-command, and turns every way it can fail into lines for a person.

Nothing but the standard library is imported before a sub-command is known, so that help and completion are instant.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, Protocol, cast

from ghostfleet_operator.cli.errors import CommandError, Exit

_COMMANDS: Final = {
    "serve": "start one simulated inference server",
    "up": "start a fleet of them on this machine, from YAML files",
    "status": "show the fleet that runs on this machine",
    "apply": "change the running fleet",
    "down": "stop the fleet",
    "import": "turn what was written for llm-d-inference-sim into objects of ours",
    "operator": "run the Kubernetes operator",
}

_MODULES: Final = {"import": "import_"}
"""Modules that are not called as their sub-command is: Python takes that word for itself."""


class _Command(Protocol):
    def main(self, argv: Sequence[str]) -> int:
        """Runs the sub-command with the arguments after its name; its exit code."""


def _usage() -> str:
    lines = [f"  {name:<10}{text}" for name, text in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: ghostfleet COMMAND [options]",
            "",
            "Fleets of simulated inference servers: on the wire each one is a vLLM server.",
            "",
            *lines,
            "",
            "`ghostfleet COMMAND --help` explains one; `ghostfleet --version` tells the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_usage())  # noqa: T201 - a command speaks on its output
        return Exit.OK if arguments else Exit.USAGE
    if name in ("-V", "--version", "version"):
        from ghostfleet_simulator import __version__  # noqa: PLC0415 - looked up among the installed packages

        print(f"ghostfleet {__version__}")  # noqa: T201
        return Exit.OK
    if name.startswith("-"):
        # A pod's `args` take the place of the image's `serve`: flags alone are those of a server.
        return _run("serve", arguments)
    if name not in _COMMANDS:
        import difflib  # noqa: PLC0415 - only a mistake needs it

        close = difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}"
        return _fail("ghostfleet", f"unknown command {name!r}; {hint}", Exit.USAGE)
    return _run(name, rest)


def _run(name: str, argv: Sequence[str]) -> int:
    program = f"ghostfleet {name}"
    try:
        command = cast("_Command", importlib.import_module(f"ghostfleet_operator.cli.{_MODULES.get(name, name)}"))
        code = command.main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter must not complain about it when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except CommandError as error:
        return _fail(program, str(error), error.code)
    except Exception as error:  # noqa: BLE001 - no traceback reaches a person
        return _explained(program, error)
    return code


def _explained(program: str, error: Exception) -> int:
    from ghostfleet_simulator.problems import InvalidInput  # noqa: PLC0415 - pydantic takes longer to load than help

    if isinstance(error, InvalidInput):
        for problem in error.problems:
            _fail(program, str(problem), Exit.USAGE)
        return Exit.USAGE
    if os.environ.get("GHOSTFLEET_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.filename is not None:
        return _fail(program, f"{error.filename}: {error.strerror}", Exit.FAILED)
    text = " ".join(str(error).split())
    hint = "this is a mistake in ghostfleet; GHOSTFLEET_DEBUG=1 shows where"
    return _fail(program, f"{type(error).__name__}: {text} ({hint})", Exit.FAILED)


def _fail(program: str, message: str, code: Exit) -> int:
    print(f"{program}: {message}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
