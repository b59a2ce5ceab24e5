"""The command line of `ghostfleet serve`: which flags there are, and how an argument list is cut into flags and values.

The flags are derived from the settings models: every field that carries `Flag` is one. The flags of `vllm serve` and of
llm-d-inference-sim that mean nothing here are known with their arity, so a command line written for either works.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

from ghostfleet_simulator.config import Flag, Live, LogFormat, LogLevel, ServerConfig
from ghostfleet_simulator.llmd.arguments import values_of_flags
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest

RATE_FLAG: Final = "failure-injection-rate"
TYPES_FLAG: Final = "failure-types"
FAKE_METRICS_FLAG: Final = "fake-metrics"


@dataclass(frozen=True, slots=True)
class Setting:
    """One flag: where its value belongs in the tree of a `ServerConfig`, and how it is spelt and explained."""

    flag: str
    short: str = ""
    """Another spelling, behind a single dash; that of the flag is behind two."""
    path: tuple[str, ...] = ()
    """CamelCase keys from the root of the configuration; empty for an option of the process itself."""
    many: bool = False
    choices: type[StrEnum] | None = None
    switch: bool = False
    """On or off: `--flag`, `--no-flag`, and either with a `true` or `false` behind it."""
    block: bool = False
    """A whole block as a JSON object; its fields may be flags of their own."""
    live: bool = False
    help: str = ""
    default: str = ""

    @property
    def dotted(self) -> str:
        """The path as problems name it."""
        return ".".join(self.path)


PROCESS_OPTIONS: Final = (
    Setting("config", help="YAML or JSON file: settings as in a custom resource, a document, or flag names as keys."),
    Setting(RATE_FLAG, help="Per cent of the requests that fail, 0 to 100.", default="0"),
    Setting(
        TYPES_FLAG, many=True, help="Failures to inject, in equal shares; without any, the six of llm-d-inference-sim."
    ),
    Setting(FAKE_METRICS_FLAG, help="`fakeMetrics` as the JSON object that llm-d-inference-sim takes."),
    Setting("admin-token-file", help="File with the bearer token of the admin API."),
    Setting("api-key", many=True, help="Keys of which requests to the API must bring one; also from VLLM_API_KEY."),
    Setting("live-file", help="File in which a configuration accepted by the admin API outlives a restart."),
    Setting("log-level", choices=LogLevel, help="Least severity that is logged.", default="info"),
    Setting("log-format", choices=LogFormat, help="How log lines look.", default="text"),
)
"""Flags that are no fields of the configuration."""


def _parts(annotation: Any) -> Iterator[Any]:
    """The types an annotation consists of, unions and `Annotated` opened."""
    arguments = get_args(annotation)
    if not arguments or get_origin(annotation) is tuple:
        yield annotation
    else:
        for argument in arguments:
            yield from _parts(argument)


def _spelt(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _walk(model: type[BaseModel], path: tuple[str, ...], live: bool) -> Iterator[Setting]:
    for name, info in model.model_fields.items():
        here = (*path, info.alias or name)
        changes_live = live or any(isinstance(mark, Live) for mark in info.metadata)
        parts = list(_parts(info.annotation))
        flag = next((mark for mark in info.metadata if isinstance(mark, Flag)), None)
        blocks = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if flag:
            default = info.get_default(call_default_factory=True) if not info.is_required() and not blocks else None
            yield Setting(
                flag=flag.name,
                short=flag.short,
                path=here,
                many=any(get_origin(part) is tuple for part in parts),
                choices=next((p for p in parts if isinstance(p, type) and issubclass(p, StrEnum)), None),
                switch=bool in parts,
                block=bool(blocks),
                live=changes_live,
                help=(info.description or "").replace("\n", " "),  # there once somebody has asked `describe`
                default="" if default in (None, (), "") else _spelt(default),
            )
        for block in blocks:
            yield from _walk(block, here, changes_live)


def settings() -> dict[str, Setting]:
    """Every flag of `ghostfleet serve` that means something, by its name without dashes."""
    return {setting.flag: setting for setting in (*_walk(ServerConfig, (), live=False), *PROCESS_OPTIONS)}


class Arity(StrEnum):
    """How many values a foreign flag takes."""

    NONE = "none"
    ONE = "one"
    OPTIONAL = "optional"
    MANY = "many"


@dataclass(frozen=True, slots=True)
class ForeignFlag:
    """A flag of a program whose command line is accepted, which means nothing here."""

    spelling: str
    program: str
    arity: Arity


def foreign_flags() -> dict[str, ForeignFlag]:
    """Flags that are accepted and skipped, by their spelling with dashes; vLLM's win where both programs have one."""
    found: dict[str, ForeignFlag] = {}
    data = json.loads(resources.files("ghostfleet_simulator").joinpath("data", "vllm_flags.json").read_text())
    for program, flags in (("llm-d-inference-sim", values_of_flags()), (data["program"], data["flags"])):
        for spelling, arity in flags.items():
            found[spelling] = ForeignFlag(spelling, program, Arity(arity))
    return found


@dataclass(slots=True)
class Arguments:
    """What an argument list says: values by flag name, the last one wins; and the flags that were skipped."""

    values: dict[str, list[str]] = field(default_factory=dict)
    skipped: list[ForeignFlag] = field(default_factory=list)


_FLAG: Final = re.compile(r"--[A-Za-z]|-[A-Za-z]")
_BOOLEANS: Final = frozenset({"true", "false"})
_NEGATED: Final = "--no-"


class _Scanner:
    def __init__(self, argv: Sequence[str], known: Mapping[str, Setting], *, cut_short: bool) -> None:
        self._rest = list(argv)
        self._cut_short = cut_short
        self._known = known
        self._short = {f"-{setting.short}": setting for setting in known.values() if setting.short}
        self._found = Arguments()
        self._foreign: dict[str, ForeignFlag] | None = None

    def scan(self) -> Arguments:
        positional: list[str] = []
        while self._rest:
            word = self._rest.pop(0)
            if _FLAG.match(word):
                self._flag(word)
            elif word:  # an empty element is what a template leaves of a flag that it omits
                positional.append(word)
        if positional and "model" not in self._found.values:
            self._found.values["model"] = [positional.pop(0)]  # as in `vllm serve MODEL`
        if positional:
            message = "unexpected; flags begin with --, and only one model is named"
            raise InvalidInput([Problem(repr(positional[0]), message)])
        return self._found

    def _flag(self, word: str) -> None:
        spelling, equals, inline = word.partition("=")
        if spelling.startswith("--"):
            head, dot, tail = spelling.partition(".")  # vLLM: --kv-events-config.topic
            spelling = self._completed(head.replace("_", "-") + dot + tail.replace("-", "_"))
        setting = self._known.get(spelling[2:]) if spelling.startswith("--") else self._short.get(spelling)
        negated = self._known.get(spelling.removeprefix(_NEGATED)) if spelling.startswith(_NEGATED) else None
        if negated is not None and negated.switch:
            if equals:
                raise InvalidInput([Problem(spelling, "takes no value")])
            self._found.values[negated.flag] = ["false"]
        elif setting is None:
            self._skip(spelling, bool(equals))
        elif equals:
            self._found.values[setting.flag] = [inline]
        elif setting.switch:
            # llm-d-inference-sim's own manifests write `--enable-kvcache true`.
            word = self._rest.pop(0) if self._rest and self._rest[0].lower() in _BOOLEANS else "true"
            self._found.values[setting.flag] = [word]
        elif setting.many:
            self._found.values[setting.flag] = self._take_many(spelling)
        else:
            self._found.values[setting.flag] = [self._take_one(spelling)]

    def _completed(self, spelling: str) -> str:
        """The one flag that begins like this, as vLLM's parser takes `--max-num-seq`; else the spelling itself."""
        plain = spelling.removeprefix(_NEGATED) if spelling.startswith(_NEGATED) else spelling[2:]
        if not self._cut_short or "." in spelling or plain in self._known:
            return spelling
        self._foreign = foreign_flags() if self._foreign is None else self._foreign
        flags = {*(f"--{flag}" for flag in self._known if "." not in flag), *self._foreign}
        found = [flag for flag in flags if flag.startswith(spelling)]
        return found[0] if len(found) == 1 and spelling not in flags else spelling

    def _take_one(self, spelling: str) -> str:
        if not self._rest or _FLAG.match(self._rest[0]):
            raise InvalidInput([Problem(spelling, "needs a value")])
        return self._rest.pop(0)

    def _take_many(self, spelling: str) -> list[str]:
        values = [self._take_one(spelling)]
        while self._rest and not _FLAG.match(self._rest[0]):
            values.append(self._rest.pop(0))
        return [value for value in values if value]

    def _skip(self, spelling: str, inline: bool) -> None:
        if self._foreign is None:
            self._foreign = foreign_flags()
        flag = self._lookup(spelling, self._foreign)
        if flag is None:
            raise InvalidInput([unknown_flag(spelling, self._known, self._foreign)])
        self._found.skipped.append(flag)
        if inline:
            return
        match flag.arity:
            case Arity.ONE:
                self._take_one(spelling)
            case Arity.MANY:
                self._take_many(spelling)
            case Arity.OPTIONAL:
                if self._rest and not _FLAG.match(self._rest[0]):
                    self._rest.pop(0)
            case Arity.NONE:
                if self._rest and self._rest[0].lower() in _BOOLEANS:
                    self._rest.pop(0)

    @staticmethod
    def _lookup(spelling: str, foreign: Mapping[str, ForeignFlag]) -> ForeignFlag | None:
        if spelling in foreign:
            return foreign[spelling]
        head, dot, _ = spelling.partition(".")
        if dot and head in foreign and foreign[head].arity is Arity.ONE:
            return ForeignFlag(spelling, foreign[head].program, Arity.ONE)
        if re.fullmatch(r"-O([0-3]|\w+)?", spelling):  # vLLM: -O3, -O 3
            return ForeignFlag("-O", "vllm serve", Arity.OPTIONAL if spelling == "-O" else Arity.NONE)
        if re.fullmatch(r"--?v", spelling) and "-v" in foreign:
            return foreign["-v"]
        return None


def unknown_flag(spelling: str, known: Mapping[str, Setting], foreign: Mapping[str, ForeignFlag]) -> Problem:
    """The problem of a flag that nothing knows; names the flag it is nearest to."""
    flags = [*(f"--{name}" for name in known), *foreign]
    guess = nearest(spelling, [flag for flag in flags if flag.startswith("--") == spelling.startswith("--")])
    return Problem(
        spelling, "unknown flag; " + (f"did you mean {guess}?" if guess else "`ghostfleet serve --help` lists all")
    )


def scan(argv: Sequence[str], known: Mapping[str, Setting], *, cut_short: bool = True) -> Arguments:
    """Cuts `argv` into flags and values; raises `InvalidInput` whose paths are flags as they were written.

    `--flag value`, `--flag=value` and `--a_flag` are one; a switch needs no value, and is off as `--no-flag`; a flag
    with several values takes all up to the next flag; a value may begin with a minus and a digit. With `cut_short` the
    beginning of a flag means it where there is no other such flag.
    """
    return _Scanner(argv, known, cut_short=cut_short).scan()
