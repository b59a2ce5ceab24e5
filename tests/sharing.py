"""How a test run with several workers (`pytest -n 2`, as `make test` does) shares the tests and the machine out."""

from __future__ import annotations

import fcntl
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER: Final = {"tests/apiserver/faults/": "hollow", "tests/local/": "loopback", "tests/testing/": "loopback"}
"""One worker has all of what is called the same: tests that share a cluster that is slow to start, or addresses."""


class Sharing(LoadFileScheduling):
    """A file goes to the worker that is free next, in the order of the collection; folders of `TOGETHER` go whole.

    So fixtures of a module are made once, as without workers, and those of a package by each worker that has a part.
    """

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        # Sorting by the number of tests would put the longest last: few tests, each of which waits for processes.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        whole = next((name for folder, name in TOGETHER.items() if nodeid.startswith(folder)), None)
        return whole or super()._split_scope(nodeid)


class Turns:
    """Lets tests of the mark `quiet` run while no other worker has one, a row of them in one go."""

    def __init__(self) -> None:
        self._turn = ExitStack()
        self._keeps = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Outside the time that a test is given: waiting for its turn is no fault of its own."""
        alone = is_quiet(item)
        if not self._keeps:
            self._turn.enter_context(turn(alone=alone))
        self._keeps = alone and nextitem is not None and is_quiet(nextitem)
        try:
            return (yield)
        finally:
            if not self._keeps:
                self._turn.close()


def is_quiet(item: pytest.Item) -> bool:
    """Whether others would disturb what a test measures."""
    return item.get_closest_marker("quiet") is not None


@contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """The time of one test: beside those of other workers, or `alone` on the machine as far as tests go."""
    with Path(__file__).open("rb") as running, Path(__file__).with_name("conftest.py").open("rb") as door:
        # Who waits to be alone holds the door meanwhile, or one worker after the other would slip in.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
