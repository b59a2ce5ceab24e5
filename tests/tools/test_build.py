"""The builder of Kubernetes parts: what it takes from outside, and what it leaves when it is interrupted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from e2e import cache, shell
from e2e.build import binaries
from e2e.build.components import COMPONENTS
from e2e.build.toolchain import Go, find_go


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GHOSTFLEET_CACHE", str(folder))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return folder


@pytest.fixture
def go() -> Go:
    try:
        return find_go()
    except shell.Failure as error:
        pytest.skip(f"no Go can be had: {error}")


def test_given_assets_are_used_if_they_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in KUBEBUILDER_ASSETS with all programs that are asked for is taken as it is: nothing is built."""
    for name in ("etcd", "kubectl"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert binaries.ensure(["etcd", "kubectl"]) == tmp_path


def test_a_program_is_built_once(go: Go, capfd: pytest.CaptureFixture[str]) -> None:
    """The second call finds what the first one built, and a real program comes out of it."""
    folder = binaries.ensure(["pause"])
    assert "building pause" in capfd.readouterr().err
    assert (folder / "pause").stat().st_mode & 0o111
    assert binaries.ensure(["pause"]) == folder
    assert capfd.readouterr().err == ""


def test_a_failed_build_leaves_nothing(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    """A program that does not compile is a Failure with the compiler's words, and no file of it is kept."""
    source = tmp_path / "main.go"
    source.write_text("package main\nfunc main() { missing() }\n")
    monkeypatch.setitem(COMPONENTS, "pause", dataclasses.replace(COMPONENTS["pause"], source=source))
    with pytest.raises(shell.Failure, match="undefined: missing"):
        binaries.ensure(["pause"])
    assert [path for path in (empty_cache / "store").rglob("*") if path.is_file()] == []


def test_a_recipe_has_its_own_name() -> None:
    """Another version, or other linker flags, never meet an old program: they are part of the name it is kept under."""
    kubectl = COMPONENTS["kubectl"]
    others = [dataclasses.replace(kubectl, version="v9"), dataclasses.replace(kubectl, variables={})]
    assert len({kubectl.key, *(other.key for other in others)}) == 3


def test_a_draft_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    """What an earlier run left half-made is dropped, and the name appears only once the block has ended well."""
    target = tmp_path / "made"
    (tmp_path / ".made.partial").mkdir()
    with pytest.raises(ZeroDivisionError), cache.appearing(target) as draft:
        draft.write_text(str(1 // 0))
    assert list(tmp_path.iterdir()) == []
    with cache.appearing(target) as draft:
        draft.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
