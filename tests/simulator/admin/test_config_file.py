"""Following a configuration file: real files, changed as Kubernetes and as editors change them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document, InForce
from ghostfleet_simulator.problems import validated
from ghostfleet_simulator.runtime.config_file import follow


def _document(latency: int, revision: int) -> Document:
    raw = {"model": {"name": "m"}, "profile": {"simple": {"interTokenLatency": latency}}}
    return Document.of(validated(ServerConfig, raw), revision)


def _text(latency: int, revision: int) -> str:
    return json.dumps(_document(latency, revision).to_json())


class _Server:
    """The rule of documents and nothing else of a server."""

    def __init__(self) -> None:
        self.in_force = InForce.start(_document(20, 1))
        self.offered: list[int | None] = []

    def offer(self, document: Document) -> None:
        self.offered.append(document.revision)
        self.in_force = self.in_force.offer(document)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def server() -> _Server:
    return _Server()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "server.json"
    path.write_text(_text(20, 1))
    return path


@pytest.fixture
async def following(server: _Server, path: Path) -> AsyncIterator[None]:
    task = asyncio.create_task(follow(path, server.offer))
    await asyncio.sleep(0.3)  # the watch is set up in a thread
    yield
    assert not task.done(), "nothing that is in a file ends the following"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.usefixtures("following")
async def test_a_written_document_comes_into_force(server: _Server, path: Path) -> None:
    path.write_text(_text(30, 2))
    await _until(lambda: server.in_force.document == _document(30, 2))


@pytest.mark.usefixtures("following")
async def test_a_renamed_document_comes_into_force(server: _Server, path: Path) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(_text(30, 2))
    aside.replace(path)
    await _until(lambda: server.in_force.revision == 2)


async def test_a_swapped_config_map_comes_into_force(server: _Server, tmp_path: Path) -> None:
    # The kubelet's way: server.json -> ..data/server.json, ..data -> ..<time>, and ..data is replaced.
    for name, latency, revision in (("..1", 20, 1), ("..2", 30, 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "server.json").write_text(_text(latency, revision))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "server.json").symlink_to("..data/server.json")
    task = asyncio.create_task(follow(tmp_path / "server.json", server.offer))
    await asyncio.sleep(0.3)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    await _until(lambda: server.in_force.revision == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("following")
async def test_what_is_wrong_is_told_in_one_line_and_the_next_change_is_seen(
    server: _Server, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ghostfleet.config")
    wrong = {
        "{": "not valid YAML",
        '{"config": {"model": {"nam": "m"}}}': "config.model.nam: unknown field; did you mean 'name'?",
        _text(20, 0): "revision 0 is older than revision 1",
        "\0": "not valid YAML",
    }
    for text, words in wrong.items():
        path.write_text(text)
        await _until(lambda words=words: any(words in record.getMessage() for record in caplog.records))  # type: ignore[misc]  # bound early
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert all(str(path) in record.getMessage() for record in caplog.records)
    assert server.in_force.revision == 1
    path.unlink()
    await _until(lambda: any("No such file" in record.getMessage() for record in caplog.records))
    path.write_text(_text(30, 2))
    await _until(lambda: server.in_force.revision == 2)


@pytest.mark.usefixtures("following")
async def test_a_notice_without_a_change_does_not_end_a_patch(server: _Server, path: Path) -> None:
    server.in_force = server.in_force.patch({"answers": {"mode": "Echo"}})
    patched = server.in_force
    (path.parent / "neighbour").write_text("x")
    path.write_text(path.read_text())
    await asyncio.sleep(1)
    assert server.offered == [1]
    assert server.in_force is patched


async def test_the_file_as_it_is_when_following_begins_is_offered(server: _Server, path: Path) -> None:
    # It may have changed between the start of the process and the watch.
    path.write_text(_text(30, 2))
    task = asyncio.create_task(follow(path, server.offer))
    await _until(lambda: server.in_force.revision == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("following")
async def test_an_empty_file_is_one_that_is_being_written_until_it_stays_empty(
    server: _Server, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("")
    await asyncio.sleep(0.8)
    assert not caplog.records
    (path.parent / "neighbour").write_text("x")
    await _until(lambda: any("config: required" in record.getMessage() for record in caplog.records))
    path.write_text(_text(30, 2))
    await _until(lambda: server.in_force.revision == 2)


async def test_what_the_process_started_with_does_not_end_a_patch(server: _Server, path: Path) -> None:
    server.in_force = patched = server.in_force.patch({"answers": {"mode": "Echo"}})
    task = asyncio.create_task(follow(path, server.offer, _document(20, 1)))
    await asyncio.sleep(0.3)
    assert server.in_force is patched
    path.write_text(_text(30, 2))
    await _until(lambda: server.in_force.revision == 2)
    path.write_text(_text(20, 1))
    await _until(lambda: server.offered == [2, 1])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_document_that_could_not_be_kept_is_offered_again(path: Path) -> None:
    offers = 0

    def offer(document: Document) -> None:
        nonlocal offers
        offers += 1
        if offers == 1:
            raise OSError(28, "No space left on device")

    task = asyncio.create_task(follow(path, offer))
    await asyncio.sleep(0.3)
    (path.parent / "neighbour").write_text("x")
    await _until(lambda: offers == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
