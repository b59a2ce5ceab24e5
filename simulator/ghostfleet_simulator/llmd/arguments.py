"""The command line of llm-d-inference-sim: how its words become settings, and which of them are somebody else's.

Source: its pkg/common/parser.go, pflag and klog. Where it misreads a word silently (a bool with `false` behind it is
true, `--no-` flags take no notice of their value) what was meant counts, and a note says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ghostfleet_simulator.llmd.settings import DURATIONS, SETTINGS
from ghostfleet_simulator.problems import InvalidInput, Problem

MANY: Final = frozenset({"served-model-name", "lora-modules", "failure-types"})
"""Settings of several words."""

_TOGGLES: Final = frozenset({"enable-sleep-mode", "mm-encoder-only", "omni", "enforce-eager", "enable-prefix-caching"})
"""Settings that have a `--no-` flag."""

_KLOG_SWITCHES: Final = frozenset(
    {"add-dir-header", "alsologtostderr", "logtostderr", "one-output", "skip-headers", "skip-log-headers"}
)
_KLOG_VALUES: Final = frozenset(
    {"log-backtrace-at", "log-dir", "log-file", "log-file-max-size", "stderrthreshold", "vmodule"}
)
_FLAG: Final = re.compile(r"--?[A-Za-z]")
_BARE_NUMBER: Final = re.compile(r"[0-9]+")
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclass(slots=True)
class Parsed:
    """What words say: settings as raw values, notes about them, and the words of flags that it does not have."""

    values: dict[str, Any] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    """What the person who wrote the words should know; the path is the flag."""
    rest: list[str] = field(default_factory=list)
    verbosity: int | None = None
    """klog's `-v`."""
    config: str | None = None
    """The file that `--config` names."""


def milliseconds(number: str | int, notes: list[Problem], source: str) -> str:
    """A duration that was written without a unit, as older versions took it."""
    notes.append(Problem(source, f"{number} has no unit and is taken for milliseconds; write {number}ms"))
    return f"{number}ms"


class _Words:
    def __init__(self, argv: Sequence[str]) -> None:
        self._left = list(argv)
        self.found = Parsed()

    def parse(self) -> Parsed:
        while self._left:
            word = self._left.pop(0)
            if word == "--":
                self._stray(*self._left)
                break
            if _FLAG.match(word):
                self._flag(word)
            elif word:  # an empty one is what a template leaves of a flag that it omits
                self._stray(word)
        return self.found

    def _stray(self, *words: str) -> None:
        self.found.notes += [Problem(repr(word), "belongs to no flag; it is skipped") for word in words]

    def _flag(self, word: str) -> None:
        spelling, equals, inline = word.partition("=")
        value = inline if equals else None
        name = spelling.lstrip("-").replace("_", "-")
        if verbosity := re.fullmatch(r"--?v|-v(\d+)", spelling):
            self._verbosity(verbosity[1] or (self._one(spelling) if value is None else value))
        elif not spelling.startswith("--"):
            self._foreign(word)
        elif name == "config":
            self._config(value)
        elif name in MANY or name == "fake-metrics":
            self._many(name, value)
        elif name in SETTINGS and SETTINGS[name].info.annotation is bool:
            self._switch(name, spelling, value, on=True)
        elif name.startswith("no-") and name[3:] in _TOGGLES:
            self._switch(name[3:], spelling, value, on=False)
        elif name in SETTINGS:
            self.found.values[name] = self._converted(name, self._one(spelling) if value is None else value)
        elif name in _KLOG_SWITCHES or name in _KLOG_VALUES:
            if name in _KLOG_VALUES and value is None:
                self._one(spelling)
            self.found.notes.append(Problem(spelling, "not needed: the log goes to standard error, see --log-format"))
        else:
            self._foreign(word)

    def _one(self, spelling: str) -> str:
        if not self._left:
            raise InvalidInput([Problem(spelling, "needs a value")])
        return self._left.pop(0)

    def _words(self) -> list[str]:
        words = []
        while self._left and not self._left[0].startswith("--"):
            words.append(self._left.pop(0))
        return [word for word in words if word]

    def _verbosity(self, word: str) -> None:
        if not word.isdecimal():
            raise InvalidInput([Problem("--v", f"{word!r} is not a whole number")])
        self.found.verbosity = int(word)

    def _config(self, value: str | None) -> None:
        words = self._words() if value is None else [value]
        if len(words) != 1:
            raise InvalidInput([Problem("--config", "needs one file")])
        self.found.config = words[0]

    def _many(self, name: str, value: str | None) -> None:
        words = self._words() if value is None else [value]
        if name not in self.found.values:  # the first one counts, as there
            self.found.values[name] = self._lists(name, words)

    def _lists(self, name: str, words: list[str]) -> Any:
        if name == "lora-modules":
            return [json_object(word, f"--{name}") for word in words]
        if name == "fake-metrics":
            return json_object(words[0], f"--{name}") if words else None
        return words

    def _switch(self, name: str, spelling: str, value: str | None, *, on: bool) -> None:
        if value is None and self._left and self._left[0] in (_TRUE | _FALSE) - {"0", "1", "t", "f", "T", "F"}:
            value = self._left.pop(0)
            if value in _FALSE:
                self.found.notes.append(
                    Problem(spelling, f"the word {value} behind it is heeded; llm-d-inference-sim overlooks it")
                )
        if value is not None and value not in _TRUE | _FALSE:
            raise InvalidInput([Problem(spelling, f"{value!r} is neither true nor false")])
        self.found.values[name] = on is (value is None or value in _TRUE)

    def _converted(self, name: str, word: str) -> Any:
        annotation, source = SETTINGS[name].info.annotation, f"--{name}"
        if name in DURATIONS:
            is_bare = _BARE_NUMBER.fullmatch(word) and int(word)
            return milliseconds(word, self.found.notes, source) if is_bare else word
        try:
            if annotation is int:
                return int(word, 0) if not re.fullmatch(r"[+-]?0\d+", word) else int(word, 8)
            return float(word) if annotation is float else word
        except ValueError:
            kind = "a whole number" if annotation is int else "a number"
            raise InvalidInput([Problem(source, f"{word!r} is not {kind}")]) from None

    def _foreign(self, word: str) -> None:
        """A flag of ours or of nobody: with all words up to the next flag."""
        self.found.rest.append(word)
        while self._left and not _FLAG.match(self._left[0]):
            if following := self._left.pop(0):
                self.found.rest.append(following)


def json_object(text: object, source: str) -> Mapping[str, Any]:
    """A JSON object as text, or one that is an object already; raises `InvalidInput`."""
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise InvalidInput([Problem(source, f"not JSON: {error}")]) from None
    if not isinstance(found, Mapping):
        raise InvalidInput([Problem(source, f"must be a JSON object, not {text!r}")])
    return found


def parse(argv: Sequence[str]) -> Parsed:
    """What `argv`, without the program's name, says. Raises `InvalidInput` whose paths are flags."""
    return _Words(argv).parse()


def values_of_flags() -> dict[str, str]:
    """Every flag with its dashes, and how many values it takes: `none`, `one` or `many`."""
    flags = {f"--{name}": _arity(name) for name in SETTINGS}
    flags |= {f"--no-{name}": "none" for name in _TOGGLES} | {f"--{name}": "none" for name in _KLOG_SWITCHES}
    return flags | dict.fromkeys((*(f"--{name}" for name in _KLOG_VALUES), "--v", "-v"), "one")


def _arity(name: str) -> str:
    if name in MANY:
        return "many"
    return "none" if SETTINGS[name].info.annotation is bool else "one"
