"""A real `ghostfleet serve` process per configuration, on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.hosted import Host, hosting
from tests.served import GHOSTFLEET, Serve, Served, servers

__all__ = ["GHOSTFLEET", "Serve", "Served"]


@pytest.fixture
def host() -> Iterator[Host]:
    """Hosts servers with the flags given in this process; they end with the test."""
    with hosting() as made:
        yield made


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers with the flags given; they end with the module."""
    with servers(tmp_path_factory.mktemp) as start:
        yield start
