"""Servers for loads that nobody means well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.served import Serve, Served, servers

__all__ = ["Serve", "Served"]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers with the flags given; they end with the module."""
    with servers(tmp_path_factory.mktemp) as start:
        yield start
