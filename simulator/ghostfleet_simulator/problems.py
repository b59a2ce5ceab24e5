"""Validation errors as people read them: the field's path, what is wrong with it, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input; `path` is dotted, as the field is written (`spec.profile.simple.tick`)."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidInput(Exception):
    """An input that cannot be used; carries every problem found, never none."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` is most likely a misspelling of, if any is near."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return close[0] if close else None


def _join(location: Iterable[int | str]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields beside the one at `location`, found by walking the models' annotations."""
    current: Any = model
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = next((f for n, f in current.model_fields.items() if part in (n, f.alias)), None) if current else None
        current = _model_in(field.annotation) if field else None
    return [field.alias or name for name, field in current.model_fields.items()] if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, getattr(annotation, "__args__", ())) if m), None)


_PLAINER = {
    "missing": "required, but not given",
    "model_type": "must be an object with named fields",
    "dict_type": "must be an object with named fields",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> tuple[Problem, ...]:
    """Every problem of a pydantic error over `model`, in plain words; `prefix` is put before each path."""
    found = []
    for item in error.errors(include_url=False):
        location, message = item["loc"], item["msg"]
        if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
            continue  # pydantic counts only the items that are valid; those that are not are told of themselves
        if item["type"] == "extra_forbidden":
            known = _known_fields(model, location)
            guess = nearest(str(location[-1]), known)
            message = (
                f"unknown field; did you mean {guess!r}?" if guess else f"unknown field; allowed are {', '.join(known)}"
            )
        elif item["type"] in _PLAINER:
            message = _PLAINER[item["type"]]
        elif item["type"] == "string_pattern_mismatch":
            message = f"{str(item['input'])[:80]!r} does not match the pattern {item['ctx']['pattern']}"
        elif item["type"] == "settings":
            context = item.get("ctx", {})
            if "path" in context:
                location, message = (*location, *str(context["path"]).split(".")), str(context["message"])
        path = _join(location)
        found.append(Problem(f"{prefix}.{path}" if prefix and path else prefix or path, message))
    return tuple(found)


def validated(model: type[M], raw: object, prefix: str = "") -> M:
    """`raw` as a `model`, its fields named as they are written in files; raises `InvalidInput`."""
    try:
        return model.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidInput(explain(error, model, prefix)) from None
