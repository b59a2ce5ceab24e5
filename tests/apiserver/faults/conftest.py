"""The hollow cluster of these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.apiserver import hollow as clusters
from tests.apiserver.control_plane import Unavailable
from tests.apiserver.hollow import Hollow


@pytest.fixture(scope="package")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hollow]:
    """A cluster in a network namespace of its own, which these tests are in as well."""
    running = clusters.running(tmp_path_factory.mktemp("hollow"))
    try:
        started = running.__enter__()
    except Unavailable as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"the API-server tier must run in CI: {error}", pytrace=False)
        pytest.skip(str(error).splitlines()[0])
    try:
        yield started
    finally:
        running.__exit__(None, None, None)
