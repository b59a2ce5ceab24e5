"""The pytest plugin: comes with the installation, costs nothing until a test asks for a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ghostfleet_operator.testing.fleet import Fleet

StartFleet = Callable[..., "Fleet"]
"""Takes sources and `servers_per_process` as `Fleet` does."""


@pytest.fixture(scope="session")
def ghostfleet_session_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFleet]:
    """Start a fleet that runs until the end of the session; see `Fleet`."""
    with ExitStack() as stack:
        yield lambda *sources, **more: _started(stack, sources, tmp_path_factory.mktemp("ghostfleet"), **more)


@pytest.fixture
def ghostfleet_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFleet]:
    """Start a fleet that runs until the end of the test; see `Fleet`."""
    with ExitStack() as stack:
        yield lambda *sources, **more: _started(stack, sources, tmp_path_factory.mktemp("ghostfleet"), **more)


def _started(stack: ExitStack, sources: tuple[str | Path, ...], folder: Path, **more: int) -> Fleet:
    from ghostfleet_operator.testing.fleet import Fleet  # noqa: PLC0415 - most tests of a project need no fleet

    return stack.enter_context(Fleet(*sources, folder=folder, **more))
