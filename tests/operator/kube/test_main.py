"""What the operator's log leaves out for the people who read it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import CodeType

import pytest

from ghostfleet_operator.kube import main


def failed_in(filename: str) -> BaseException:
    """An error that came by a function of that file."""
    code: CodeType = compile("def fail():\n    raise RuntimeError('gone')\n", filename, "exec")
    names: dict[str, object] = {}
    exec(code, names)
    try:
        names["fail"]()  # type: ignore[operator]
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("logger", "message", "filename", "said", "traceback"),
    [
        ("kopf.objects", "Request failed", "x.py", True, False),
        ("asyncio", "Exception in callback", "/lib/kopf/a.py", True, False),
        ("asyncio", "an error occurred during closing of asynchronous generator <x>", "/lib/kopf/a.py", False, False),
        ("asyncio", "an error occurred during closing of asynchronous generator <x>", "/own/a.py", True, True),
        ("ghostfleet.operator", "unexpected error", "/own/a.py", True, True),
    ],
)
def test_no_traceback_of_kopf(logger: str, message: str, filename: str, said: bool, traceback: bool) -> None:
    error = failed_in(str(Path(filename)))
    record = logging.LogRecord(logger, logging.ERROR, "p", 1, message, (), (type(error), error, error.__traceback__))
    assert main._for_people(record) is said
    if said:
        assert bool(record.exc_info) is traceback
