"""Writes to many sockets by one system call, on the kernel at hand."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from ghostfleet_simulator.runtime.submission import MOST, Submission, submission

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def writes() -> Submission:
    """That of this process."""
    found = submission()
    if found is None:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail("CI must have io_submit(2)")
        pytest.skip("no io_submit(2) here")
    return found


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """More than one call takes; the first of each does not block."""
    made = [socket.socketpair() for _ in range(MOST + 3)]
    for writer, _ in made:
        writer.setblocking(False)
    yield made
    for pair in made:
        for end in pair:
            end.close()


def test_each_socket_gets_what_is_for_it(writes: Submission, pairs: list[Pair]) -> None:
    """Of any length, and more of them than one call takes."""
    data = [b"%d" % index * (1 + index % 7) for index in range(len(pairs))]
    for _ in range(3):
        assert writes.write([writer.fileno() for writer, _ in pairs], data) == []
        assert [reader.recv(100) for _, reader in pairs] == data


def test_it_says_what_was_not_written(writes: Submission, pairs: list[Pair]) -> None:
    """One that is full, one that has no reader, one that is no socket and one that took a part; all others took all."""
    full, broken, gone, partly = 2, 4, MOST - 1, MOST + 1
    while True:
        try:
            pairs[full][0].send(bytes(4096))
        except BlockingIOError:
            break
    pairs[broken][1].close()
    descriptors = [writer.fileno() for writer, _ in pairs]
    descriptors[gone] = -1
    data = [b"whole"] * len(pairs)
    data[partly] = bytes(1 << 22)
    short = dict(writes.write(descriptors, data))
    assert set(short) == {full, broken, gone, partly}
    assert (short[full], short[broken], short[gone]) == (0, 0, 0)
    assert 0 < short[partly] < 1 << 22
    whole = [reader for index, (_, reader) in enumerate(pairs) if index not in short]
    assert all(reader.recv(100) == b"whole" for reader in whole)
