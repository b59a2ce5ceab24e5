"""What all tests share: soaks, turns beside other workers, figures at the end."""

from __future__ import annotations

import functools
import os
import signal
import ssl
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import settings
from tests.sharing import Sharing, Turns, is_quiet

SOAK: Final = os.environ.get("GHOSTFLEET_SOAK") == "1"

SOAK_FACTOR: Final = 50
"""How many times more examples a property test gets in a soak."""

_SETTINGS: Final = "_hypothesis_internal_use_settings"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Property tests are part of the long matrices: `make test` runs a sample of their examples, a soak many more.

    Those that run alone come first, when no worker has begun anything.
    """
    items.sort(key=is_quiet, reverse=True)
    for item in items:
        test: Any = getattr(item, "obj", None)
        if not getattr(test, "is_hypothesis_test", False):
            continue
        item.add_marker("soak")
        if SOAK:
            function = getattr(test, "__func__", test)
            usual: settings = getattr(function, _SETTINGS, settings())
            longer = settings(usual, max_examples=usual.max_examples * SOAK_FACTOR, derandomize=False)
            setattr(function, _SETTINGS, longer)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the lines that tests left with `record_property("figures", ...)`."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    lines = [value for report in reports for key, value in report.user_properties if key == "figures"]
    if lines:
        terminalreporter.section("figures")
    for line in lines:
        terminalreporter.line(str(line))


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is read."""
    config.pluginmanager.register(Turns())
    if not SOAK:
        # The same examples everywhere and every time: a run that fails shows what the change before it did.
        settings.load_profile("ci")
    # A job in the background of a shell ignores SIGINT, and so would every process that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """Each client of httpx reads the machine's certificates, 20 ms of CPU: those of the tests share them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    return Sharing(config, log)
