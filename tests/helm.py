"""A real Helm for tests of the chart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from e2e import shell
from e2e.build import binaries


def helm() -> Path:
    """The Helm that the end-to-end tests install with, built once; where none can be had, skips, but never in CI."""
    try:
        return binaries.ensure(["helm"]) / "helm"
    except shell.Failure as error:
        if os.environ.get("GHOSTFLEET_CI") == "1":
            pytest.fail(f"the chart must be tested in CI: {error}", pytrace=False)
        pytest.skip(f"no Helm can be built: {str(error).splitlines()[0]}")
