"""The chart as a real Helm renders it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helm import helm

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "ghostfleet"
VERSION = "1.34.0"

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("helm")
    values = home / "values.yaml"
    program = helm()

    def call(*command: str, **given: Any) -> subprocess.CompletedProcess[str]:
        values.write_text(json.dumps(given))
        return subprocess.run(
            [program, *command, str(CHART), "--values", str(values), "--kube-version", VERSION],
            capture_output=True,
            text=True,
            check=False,
            env={"HOME": str(home), "PATH": os.defpath},
        )

    return call


@pytest.fixture(scope="session")
def render(run: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """Objects of release `gf` in namespace `system` with some values."""

    def call(**given: Any) -> list[dict[str, Any]]:
        done = run("template", "--namespace", "system", "gf", **given)
        assert done.returncode == 0, done.stderr
        return [tree for tree in yaml.safe_load_all(done.stdout) if tree]

    return call


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [tree for tree in objects if tree["kind"] == kind]


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = of_kind(objects, kind)
    return found
