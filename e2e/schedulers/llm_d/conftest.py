"""A picker for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from tests.served import Serve, servers

from e2e.ext_proc.picker import Client
from e2e.schedulers.llm_d.picker import LlmdPicker, Plugin, Profiles, running


class Start(Protocol):
    """Starts a picker."""

    def __call__(
        self, endpoints: Path, *plugins: Plugin, flags: Sequence[str] = (), profiles: Profiles | None = None
    ) -> LlmdPicker:
        """A picker with plugins, once it knows all that the file of endpoints lists; see `running`."""


@pytest.fixture
def start(request: pytest.FixtureRequest, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Ends its pickers after the test."""
    program = given(request, "--epp", "an endpoint picker of llm-d-router")
    with ExitStack() as stack:

        def make(
            endpoints: Path, *plugins: Plugin, flags: Sequence[str] = (), profiles: Profiles | None = None
        ) -> LlmdPicker:
            folder = tmp_path_factory.mktemp("epp")
            return stack.enter_context(running(program, client, folder, endpoints, plugins, profiles or {}, flags))

        yield make


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts servers of their own, with the flags given; they end with the test."""
    with servers(tmp_path_factory.mktemp) as made:
        yield made


@pytest.fixture
def sidecar_program(request: pytest.FixtureRequest) -> Path:
    """That which llm-d puts in front of servers that decode."""
    return given(request, "--pd-sidecar", "llm-d-router's sidecar for prefill and decode")


def given(request: pytest.FixtureRequest, option: str, what: str) -> Path:
    """A program that an option names."""
    program: Path | None = request.config.getoption(option)
    if program is None:
        pytest.skip(f"needs {what}: {option} PATH")
    return program
