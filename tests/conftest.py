"""What all tests share: `make soak` runs property tests longer and with fresh randomness."""

from __future__ import annotations

import os
import signal
from typing import Any, Final

import pytest
from hypothesis import settings

SOAK_FACTOR: Final = 20
"""How many times more examples a property test gets in a soak."""

_SETTINGS: Final = "_hypothesis_internal_use_settings"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Property tests are part of the long matrices: `make test` runs a sample of their examples, a soak many more."""
    for item in items:
        test: Any = getattr(item, "obj", None)
        if not getattr(test, "is_hypothesis_test", False):
            continue
        item.add_marker("soak")
        if os.environ.get("GHOSTFLEET_SOAK") == "1":
            function = getattr(test, "__func__", test)
            usual: settings = getattr(function, _SETTINGS, settings())
            longer = settings(usual, max_examples=usual.max_examples * SOAK_FACTOR, derandomize=False)
            setattr(function, _SETTINGS, longer)


def pytest_configure() -> None:
    """A job in the background of a shell ignores SIGINT, and so would every process that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
