"""The pool, made once for all files, and a client of the pickers in front of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from e2e.ext_proc.picker import Client
from e2e.images import parties
from e2e.schedulers.cluster import cluster_lab
from e2e.schedulers.lab import Lab
from e2e.schedulers.laptop import laptop_lab


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Speaks gRPC with pickers."""
    made = Client()
    yield made
    made.close()


@pytest.fixture(scope="session")
def session_lab(
    request: pytest.FixtureRequest, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """In the cluster that `make e2e` prepared; without one on this machine."""
    if "GHOSTFLEET_E2E_NAMESPACE" in os.environ:
        lab: AbstractContextManager[Lab] = cluster_lab(
            request.getfixturevalue("api"), client, os.environ.get("GHOSTFLEET_EPP_IMAGE", parties.EPP.public)
        )
    else:
        lab = laptop_lab(client, tmp_path_factory.mktemp("lab"))
    with lab as made:
        yield made


@pytest.fixture
def lab(session_lab: Lab) -> Lab:
    """The pool, without any request left from an earlier test."""
    session_lab.until_idle()
    return session_lab
