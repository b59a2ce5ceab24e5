"""`ghostfleet serve`: one simulated inference server in this process."""

from __future__ import annotations

import logging
import os
import shutil
import textwrap
from collections.abc import Sequence

from ghostfleet_operator.cli.errors import Exit
from ghostfleet_operator.cli.parser import tell
from ghostfleet_simulator import __version__
from ghostfleet_simulator.arguments import settings
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.descriptions import describe
from ghostfleet_simulator.flags import load
from ghostfleet_simulator.llmd.load import NAME as LLMD
from ghostfleet_simulator.llmd.load import load as load_llmd
from ghostfleet_simulator.llmd.settings import SETTINGS, shown_default
from ghostfleet_simulator.logs import set_up
from ghostfleet_simulator.problems import InvalidInput, Problem
from ghostfleet_simulator.serve import run

_INTRODUCTION = """\
usage: ghostfleet serve [MODEL] [options]
       ghostfleet serve --as llm-d-inference-sim [its options]

Starts one simulated inference server. Each option is also a variable (GHOSTFLEET_MAX_NUM_SEQS for --max-num-seqs) and
a key of the --config file; a flag comes before a variable, a variable before the file. Times take a unit (12.5ms,
1.5s); a bare number is milliseconds. Other flags of `vllm serve` and llm-d-inference-sim are skipped with a warning.

With `--as llm-d-inference-sim`, or GHOSTFLEET_AS=llm-d-inference-sim, the command line is that program's: its flags
with its meanings and defaults, its file, its variables, its routes. `--as llm-d-inference-sim --help` lists them.
"""


_VLLM = "vllm"


def _help() -> str:
    width = min(shutil.get_terminal_size().columns, 120)
    blocks: dict[str, list[str]] = {}
    describe(ServerConfig)
    for setting in settings().values():
        title = " ".join(setting.path[:-1]) or ("process" if not setting.path else "server")
        value = "VALUE [VALUE ...]" if setting.many else "VALUE"
        if setting.choices:
            value = "|".join(choice.value.lower() for choice in setting.choices)
        default = f" (default: {setting.default})" if setting.default else ""
        text = textwrap.fill(
            f"{setting.help}{default}", width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
        )
        usage = f"--[no-]{setting.flag}" if setting.switch else f"--{setting.flag} {value}"
        usage = f"-{setting.short}, {usage}" if setting.short else usage
        blocks.setdefault(title, []).append(f"  {usage}\n{text}")
    return _INTRODUCTION + "".join(f"\n{title}:\n" + "\n".join(lines) + "\n" for title, lines in blocks.items())


def _program(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Whose command line it is, and the command line without the flag that says so."""
    words, program = list(argv), os.environ.get("GHOSTFLEET_AS") or _VLLM
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--as":
            if not equals and index + 1 == len(words):
                raise InvalidInput([Problem("--as", "needs a value")])
            program = value if equals else words[index + 1]
            del words[index : index + (1 if equals else 2)]
            break
    if program not in (_VLLM, LLMD):
        raise InvalidInput([Problem("--as", f"{program!r} is not one of {_VLLM}, {LLMD}")])
    return program, words


def _llmd_help() -> str:
    width = min(shutil.get_terminal_size().columns, 120)
    lines = ["usage: ghostfleet serve --as llm-d-inference-sim --model MODEL [options]", ""]
    for setting in SETTINGS.values():
        default = setting.info.default
        shown = (
            ""
            if setting.info.is_required() or default in ("", (), None, False)
            else f" (default: {shown_default(setting.name)})"
        )
        becomes = setting.becomes
        text = "; ".join(filter(None, [becomes.field and f"is {becomes.field}", becomes.why]))
        if not becomes.field:
            text = f"{becomes.fate.value}: {text}"
        lines.append(f"  --{setting.name}{shown}")
        lines.append(textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Serves until told to stop."""
    program, argv = _program(argv)
    if "--help" in argv or "-h" in argv:
        tell(_llmd_help() if program == LLMD else _help())
        return Exit.OK
    if "--version" in argv:
        tell(f"ghostfleet {__version__}")
        return Exit.OK
    loaded = load_llmd(argv, os.environ) if program == LLMD else load(argv, os.environ)
    options = loaded.options
    set_up(options.log_level, options.log_format)
    for warning in loaded.warnings:
        logging.getLogger("ghostfleet.serve").warning(warning)
    return run(loaded.config, loaded.document, loaded.options)
