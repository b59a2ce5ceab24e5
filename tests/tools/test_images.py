"""The image tools: archives that engines read, what a build may know of this machine, and runc's bounds."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from e2e import archive
from e2e.images import pip_access
from e2e.images.build import Images, version
from e2e.kind import runc_within_bounds


def test_an_archive_names_and_holds_what_was_given(tmp_path: Path) -> None:
    """The manifest leads to a configuration with the entrypoint, and to a layer with the digest it promises."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    image = archive.Image(tags=["localhost/tool:1"], entrypoint=["/bin/tool"], environment={"container": "docker"})
    archive.write(root, tmp_path / "tool.tar", image)
    with tarfile.open(tmp_path / "tool.tar") as tar:
        (manifest,) = json.loads(_content(tar, "manifest.json"))
        config = json.loads(_content(tar, manifest["Config"]))
        layer = _content(tar, manifest["Layers"][0])
    assert manifest["RepoTags"] == ["localhost/tool:1"]
    assert config["config"]["Entrypoint"] == ["/bin/tool"]
    assert "container=docker" in config["config"]["Env"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]


def test_the_same_tree_gives_the_same_archive(tmp_path: Path) -> None:
    """Owners and times of files do not show: a rebuilt image is the same image."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
        archive.write(tmp_path / name, tmp_path / f"{name}.tar", archive.Image(tags=["t:1"]))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file
    return file.read()


def test_pip_in_a_build_sees_the_index_but_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip is told here by file or environment reaches a build, paths of this machine do not."""
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nindex-url = https://one.example/simple\n[install]\nretries = 7\n")
    certificates = tmp_path / "certificates.pem"
    certificates.touch()
    for name, value in {
        "PIP_CONFIG_FILE": str(configuration),
        "PIP_INDEX_URL": "https://two.example/simple",
        "PIP_FIND_LINKS": "/some/wheels",
        "PIP_CERT": str(certificates),
    }.items():
        monkeypatch.setenv(name, value)
    with pip_access.secrets() as secrets:
        lines = secrets["pip.conf"].read_text().splitlines()
    assert secrets["ca-certificates.crt"] == certificates
    assert lines[0] == "[global]"
    assert {"index-url = https://two.example/simple", "retries = 7", "cert = /run/ca-certificates.crt"} <= set(lines)
    assert not any("find-links" in line for line in lines)


def test_images_carry_the_version_and_the_prefix() -> None:
    """A prefix names the registry, the tag is the version of the project."""
    assert Images("registry.example/team/").name("sim") == f"registry.example/team/ghostfleet-sim:{version()}"


@pytest.mark.parametrize("document", ["process", "bundle"])
def test_runc_is_asked_for_no_more_than_the_machine_has(tmp_path: Path, document: str) -> None:
    """Capabilities that the machine lacks leave a container's configuration and a process's; all else stays."""
    process = {"args": ["sh"], "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"]}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(process if document == "process" else {"process": process, "hostname": "node"}))
    runc_within_bounds.reduce(path, {"CAP_SYS_RESOURCE"})
    reduced = json.loads(path.read_text())
    if document == "bundle":
        assert reduced.pop("hostname") == "node"
        reduced = reduced["process"]
    assert reduced == {"args": ["sh"], "capabilities": {"bounding": ["CAP_CHOWN"]}}
