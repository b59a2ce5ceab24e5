"""Which changes of files a fleet hears of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ghostfleet_operator.local.watch import changes


def in_place(folder: Path) -> None:
    (folder / "fleet.yaml").write_text("new")


def by_renaming(folder: Path) -> None:
    (folder / "fleet.yaml.tmp").write_text("new")
    (folder / "fleet.yaml.tmp").replace(folder / "fleet.yaml")


def as_the_kubelet(folder: Path) -> None:
    """A mounted ConfigMap: the file is a link into a folder that is itself a link, and that one is swapped."""
    mount(folder, "..2", "new")


def mount(folder: Path, version: str, text: str) -> None:
    (folder / version).mkdir()
    (folder / version / "fleet.yaml").write_text(text)
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").replace(folder / "..data")


def another(folder: Path) -> None:
    (folder / "notes.txt").write_text("new")


@pytest.mark.parametrize(
    ("change", "heard"), [(in_place, True), (by_renaming, True), (as_the_kubelet, True), (another, False)]
)
async def test_a_change_of_the_file_is_heard_of_however_it_comes_about(
    tmp_path: Path, change: Callable[[Path], None], heard: bool
) -> None:
    """A change of anything beside it is not."""
    if change is as_the_kubelet:
        mount(tmp_path, "..1", "old")
        (tmp_path / "fleet.yaml").symlink_to("..data/fleet.yaml")
    else:
        (tmp_path / "fleet.yaml").write_text("old")
    stop, news = asyncio.Event(), asyncio.Event()

    async def listen() -> None:
        async for _ in changes([tmp_path / "fleet.yaml"], stop):
            news.set()

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0.7)  # the watch stands
    news.clear()
    change(tmp_path)
    try:
        await asyncio.wait_for(news.wait(), 10 if heard else 1.5)
    except TimeoutError:
        assert not heard
    else:
        assert heard
        assert (tmp_path / "fleet.yaml").read_text() == "new"
    finally:
        stop.set()
        await listener
