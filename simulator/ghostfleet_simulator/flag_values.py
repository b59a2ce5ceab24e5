"""What a flag's words mean: values as they are written, wherever that was, and what is validated of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from pydantic.alias_generators import to_camel

from ghostfleet_simulator.arguments import FAKE_METRICS_FLAG, Setting
from ghostfleet_simulator.kv_transfer_flag import kv_transfer_of
from ghostfleet_simulator.lora_modules import adapters_of
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest

KV_TRANSFER_FLAG: Final = "kv-transfer-config"
_HUMAN_INTS: Final = frozenset({"max-model-len", "max-num-batched-tokens"})
_SWITCH: Final = {"true": True, "1": True, "false": False, "0": False, "": None}
_SUFFIXES: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Given:
    """Values of one flag as written, and how problems name the place where they were written."""

    values: list[str]
    source: str
    in_file: bool = False


def single(given: Given) -> str:
    """The one value of a flag. Raises `InvalidInput` where there are more."""
    if len(given.values) != 1:
        raise InvalidInput([Problem(given.source, f"takes one value, not {len(given.values)}")])
    return given.values[0]


def _squeezed(word: str) -> str:
    return re.sub(r"[-_ ]", "", word).lower()


def choice_of(word: str, choices: Iterable[StrEnum], source: str) -> StrEnum:
    """The member that `word` spells in kebab, snake or camel case. Raises `InvalidInput` where none does."""
    members = {_squeezed(member.value): member for member in choices}
    if _squeezed(word) in members:
        return members[_squeezed(word)]
    kebab = [re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", m.value).lower() for m in members.values()]
    guess = nearest(word.lower(), kebab)
    raise InvalidInput(
        [
            Problem(
                source, f"{word!r} is not one of {', '.join(kebab)}" + (f"; did you mean {guess!r}?" if guess else "")
            )
        ]
    )


def value_of(setting: Setting, given: Given, warnings: list[str]) -> Any:
    """The value to be validated; None where it says that the default is meant. Raises `InvalidInput`."""
    if setting.block:
        return _block(setting, given, warnings)
    if setting.many:
        return adapters_of(given.values, given.source) if setting.flag == "lora-modules" else given.values
    word = single(given)
    if setting.choices:
        return choice_of(word, setting.choices, given.source).value if word else None
    if setting.switch and word.lower() in _SWITCH:
        return _SWITCH[word.lower()]
    if setting.flag == "max-model-len" and word in ("auto", "-1"):
        warnings.append(f"{given.source}: there is no model to take the length from; it is {setting.default}")
        return None
    return _human_int(word) if setting.flag in _HUMAN_INTS else word


def _human_int(word: str) -> int | str:
    """vLLM's `human_readable_int`: 4k is 4000, 4K is 4096; any other word is left to validation."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG])", word)
    return int(Decimal(number[1]) * _SUFFIXES[number[2]]) if number else word


def object_of(given: Given) -> dict[str, Any]:
    """A JSON object; nothing is an empty one."""
    word = single(given)
    if not word:
        return {}
    try:
        found = json.loads(word)
    except ValueError as error:
        raise InvalidInput([Problem(given.source, f"not JSON: {error}")]) from None
    if not isinstance(found, dict):
        raise InvalidInput([Problem(given.source, f"must be a JSON object, not {word!r}")])
    return found


def _block(setting: Setting, given: Given, warnings: list[str]) -> dict[str, Any] | None:
    """A block as vLLM's command line has it: a JSON object whose keys are in snake case."""
    if setting.flag == KV_TRANSFER_FLAG:
        return kv_transfer_of(object_of(given), given.source, warnings) or None
    return {to_camel(key) if "_" in key else key: value for key, value in object_of(given).items()} or None


def as_words(key: str, value: object) -> list[str]:
    """A plain YAML value, or a list of them, as it would be written on the command line."""
    words = []
    for item in value if isinstance(value, list) else [value]:
        match item:
            case bool():
                words.append(str(item).lower())
            case float():
                words.append(format(Decimal(str(item)), "f") if item == item and abs(item) < 1e300 else str(item))  # noqa: PLR0124 - NaN
            case int() | str():
                words.append(str(item))
            case None if not isinstance(value, list):
                words.append("")
            case Mapping() if key.replace("_", "-") == FAKE_METRICS_FLAG:
                words.append(json.dumps(item))
            case _:
                raise InvalidInput([Problem(key, "must be a plain value or a list of plain values")])
    return words
