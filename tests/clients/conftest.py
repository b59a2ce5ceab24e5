"""A server that paces its tokens, for clients of others' making."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.served import Served, servers


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """10 ms to the first token and 1 ms between them; ends with the module."""
    with servers(tmp_path_factory.mktemp) as start:
        yield start("--time-to-first-token", "10ms", "--inter-token-latency", "1ms", "--max-model-len", "8192")
