"""What the docstrings under fields say, for help, schemas and reference.

Read only when somebody asks: pydantic's own `use_attribute_docstrings` reads them wherever a model is imported, which
takes a third of the time that a server needs to start.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Any, get_args

from pydantic import BaseModel


def describe(model: type[BaseModel]) -> None:
    """Give the fields of a model, and of the models in it, their docstrings as `description`, in JSON schemas too."""
    _describe(model, set())


def _describe(model: type[BaseModel], done: set[type[BaseModel]]) -> bool:
    """Whether anything was described, so that what contains the model has to be built anew."""
    if model in done:
        return True
    done.add(model)
    changed = False
    for name, info in model.model_fields.items():
        if info.description is None and (text := _docstring(model, name)):
            info.description, changed = text, True
        for inner in _models(info.annotation):
            changed |= _describe(inner, done)
    if changed:
        model.model_rebuild(force=True)
    return changed


def _docstring(model: type[BaseModel], name: str) -> str | None:
    return next((found[name] for cls in model.__mro__ if name in (found := _docstrings(cls))), None)


@cache
def _docstrings(cls: type) -> dict[str, str]:
    """The texts under the annotated fields of a class's own body."""
    if not issubclass(cls, BaseModel) or cls is BaseModel:
        return {}
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # it was not written in a file
        return {}
    body = getattr(ast.parse(dedent(source)).body[0], "body", [])
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
