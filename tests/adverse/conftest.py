"""Servers for loads that nobody means well."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.served import Serve, Served, servers

__all__ = ["Figures", "Serve", "Served"]

Figures = Callable[[str], None]


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Takes a line of what a test measured; all are shown before the summary."""
    return lambda line: record_property("figures", line)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers with the flags given; they end with the module."""
    with servers(tmp_path_factory.mktemp) as start:
        yield start
