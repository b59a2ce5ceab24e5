"""From the command line, the file and the environment of llm-d-inference-sim to a configuration of ours."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ghostfleet_simulator import flags
from ghostfleet_simulator.config import LogLevel
from ghostfleet_simulator.files import read_mapping
from ghostfleet_simulator.llmd.arguments import MANY, Parsed, json_object, milliseconds, parse
from ghostfleet_simulator.llmd.settings import DURATIONS, SETTINGS, Fate, LlmdSettings
from ghostfleet_simulator.llmd.translate import notes, tree_of
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest, validated

NAME: Final = "llm-d-inference-sim"
DEV_MODE: Final = "VLLM_SERVER_DEV_MODE"
MODEL: Final = "SIM_MODEL"
HASH_SEED: Final = "PYTHONHASHSEED"
_GRACE_SECONDS: Final = 30
"""How long it lets running requests go on after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Read:
    """Settings, as words, file and environment give them together."""

    settings: LlmdSettings
    notes: tuple[Problem, ...]
    """What to tell of how they are written; paths are flags or `FILE: key`."""
    rest: tuple[str, ...]
    """Words of flags that llm-d-inference-sim does not have."""
    verbosity: int | None
    dev_mode: bool

    def fates(self) -> list[tuple[Fate, Problem]]:
        """What becomes of the settings that do not mean the same here."""
        return notes(self.settings, dev_mode=self.dev_mode)


def read(argv: Sequence[str], environ: Mapping[str, str], file: Mapping[str, Any] | None = None) -> Read:
    """The settings of a command line; flags come before the environment, that before the file.

    `file` is the content of the file where it does not have to be read. Raises `InvalidInput`; paths are flags,
    variables or keys of the file.
    """
    parsed = parse(argv)
    sources = {name: f"--{name}" for name in parsed.values}
    values: dict[str, Any] = {}
    if file is not None or parsed.config:
        values, place = _from_file(parsed, file)
        sources = {name: f"{place}{name}" for name in values} | sources
    for variable, name in ((MODEL, "model"), (HASH_SEED, "hash-seed")):
        if environ.get(variable):
            values[name] = environ[variable]
            sources.setdefault(name, variable)
    try:
        settings = validated(LlmdSettings, values | parsed.values)
    except InvalidInput as error:
        raise InvalidInput(_sourced(problem, sources) for problem in error.problems) from None
    if settings.enable_kvcache and not environ.get("POD_IP"):
        raise InvalidInput([Problem("POD_IP", "must be set with enable-kvcache: the topic of KV events names it")])
    return Read(settings, tuple(parsed.notes), tuple(parsed.rest), parsed.verbosity, environ.get(DEV_MODE) == "1")


def _sourced(problem: Problem, sources: Mapping[str, str]) -> Problem:
    name, _, rest = problem.path.partition("[")
    source = sources.get(name, f"--{name}")
    return Problem(f"{source}[{rest}" if rest else source, problem.message)


def _from_file(parsed: Parsed, content: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """The values in a file, and what stands before its keys in problems."""
    place = ""
    if content is None:
        place = f"{parsed.config}: "
        try:
            content = read_mapping(Path(str(parsed.config)))
        except InvalidInput as error:
            raise InvalidInput(
                Problem(place.rstrip(": ") + (f": {p.path}" if p.path else ""), p.message) for p in error.problems
            ) from None
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in SETTINGS:
            guess = nearest(key, SETTINGS)
            hint = f"; did you mean {guess!r}?" if guess else ""
            parsed.notes.append(Problem(f"{place}{key}", f"unknown, and overlooked as in {NAME}{hint}"))
        elif value is not None:
            values[key] = _file_value(key, value, f"{place}{key}", parsed.notes)
    return values, place


def _file_value(key: str, value: Any, source: str, told: list[Problem]) -> Any:
    if key in DURATIONS and type(value) is int and value:
        return milliseconds(value, told, source)
    if key in MANY and isinstance(value, str):
        value = [value]
    if key == "lora-modules" and isinstance(value, list):
        return [json_object(item, source) for item in value]
    return value


def load(argv: Sequence[str], environ: Mapping[str, str]) -> flags.LoadedConfig:
    """The configuration that a command line of llm-d-inference-sim describes, with a warning for what is not so here.

    Flags of ours may stand among its own, and variables of ours count where it has no setting of the name.
    """
    found = read(argv, environ)
    settings = found.settings
    if settings.ssl_certfile or settings.self_signed_certs:
        name = "ssl-certfile" if settings.ssl_certfile else "self-signed-certs"
        raise InvalidInput([Problem(f"--{name}", SETTINGS[name].becomes.why)])
    try:
        tree = tree_of(settings, dev_mode=found.dev_mode)
    except InvalidInput as error:
        raise InvalidInput(Problem(f"--{problem.path}", problem.message) for problem in error.problems) from None
    tree["listen"] = {"port": settings.port, "shutdownTimeoutSeconds": _GRACE_SECONDS}
    if settings.data_parallel_rank >= 0:
        # It overlooks the number of ranks then; here there are some, if this is one of them.
        tree["dataParallelSize"] = max(settings.data_parallel_size, settings.data_parallel_rank + 1, 2)
        tree["localRanks"] = {"rank": settings.data_parallel_rank}
    tree["kvTransfer"]["sideChannelPort"] = side_channel_port(settings.port)
    tree.setdefault("seed", secrets.randbits(63))
    taken = {f"GHOSTFLEET_{name.upper().replace('-', '_')}" for name in SETTINGS} | {DEV_MODE, HASH_SEED}
    taken |= {"GHOSTFLEET_CONFIG"}
    try:
        loaded = flags.load(found.rest, {name: value for name, value in environ.items() if name not in taken}, tree)
    except InvalidInput as error:
        raise InvalidInput(_renamed(problem) for problem in error.problems) from None
    told = [str(note) for note in found.notes]
    told += [f"--{problem.path}: {fate.value}: {problem.message}" for fate, problem in found.fates()]
    options = replace(loaded.options, llmd=settings)
    if found.verbosity is not None and found.verbosity >= 4:
        options = replace(options, log_level=LogLevel.DEBUG)
    return replace(loaded, warnings=(*told, *loaded.warnings), options=options)


def side_channel_port(port: int) -> int:
    """Where a server with this port lets others fetch KV cache: another port for each server of a machine, and none of
    those that the system gives out itself."""
    return 10_000 + port % 20_000


def _renamed(problem: Problem) -> Problem:
    """The problem of a field of ours, under the flag that said it."""
    dotted = re.sub(r"\[\d+\]", "", problem.path)
    for setting in SETTINGS.values():
        field = setting.becomes.field
        if field and (dotted == field or dotted.startswith(f"{field}.")):
            return Problem(f"--{setting.name}", problem.message)
    return problem
