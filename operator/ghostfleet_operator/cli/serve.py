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
from ghostfleet_simulator.flags import load
from ghostfleet_simulator.logs import set_up
from ghostfleet_simulator.serve import run

_INTRODUCTION = """\
usage: ghostfleet serve [MODEL] [options]

Starts one simulated inference server. Each option is also a variable (GHOSTFLEET_MAX_NUM_SEQS for --max-num-seqs) and
a key of the --config file; a flag comes before a variable, a variable before the file. Times take a unit (12.5ms,
1.5s); a bare number is milliseconds. Other flags of `vllm serve` and llm-d-inference-sim are skipped with a warning.
"""


def _help() -> str:
    width = min(shutil.get_terminal_size().columns, 120)
    blocks: dict[str, list[str]] = {}
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


def main(argv: Sequence[str]) -> int:
    """Serves until told to stop."""
    if "--help" in argv or "-h" in argv:
        tell(_help())
        return Exit.OK
    if "--version" in argv:
        tell(f"ghostfleet {__version__}")
        return Exit.OK
    loaded = load(argv, os.environ)
    options = loaded.options
    set_up(options.log_level, options.log_format)
    for warning in loaded.warnings:
        logging.getLogger("ghostfleet.serve").warning(warning)
    return run(loaded.config, loaded.document, loaded.options)
