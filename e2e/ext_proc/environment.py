"""The virtual environment that the gRPC client runs in."""

from __future__ import annotations

from pathlib import Path

from e2e import pypi

XDS_PROTOS = "1.85.0"


def python() -> Path:
    """The Python of an environment with `xds-protos`, made now if it never was. Raises Failure."""
    return pypi.programs("xds-protos", XDS_PROTOS) / "python"
