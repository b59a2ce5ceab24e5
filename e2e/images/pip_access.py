"""Lets pip inside a build see what pip on this machine sees: index, proxies, certificates. Nothing of it stays."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from e2e import shell

# Where the Dockerfiles mount the secret of this name.
CERTIFICATES = "/run/ca-certificates.crt"
# Settings that mean the same on another machine. Paths, such as those of local wheels, do not.
PORTABLE = {"index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "default-timeout", "retries"}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@contextmanager
def secrets() -> Iterator[Mapping[str, Path]]:
    """The files to mount during RUN, by secret name: pip's configuration and the certificates this machine trusts."""
    settings = _settings()
    certificates = Path(settings.get("cert") or os.environ.get("SSL_CERT_FILE") or SYSTEM_CERTIFICATES)
    kept = {name: value for name, value in settings.items() if name in PORTABLE and not value.startswith("/")}
    found: dict[str, Path] = {}
    if certificates.is_file():
        found["ca-certificates.crt"] = certificates
        kept["cert"] = CERTIFICATES
    with TemporaryDirectory() as folder:
        configuration = Path(folder) / "pip.conf"
        configuration.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in kept.items()), ""]))
        yield found | {"pip.conf": configuration}


def build_arguments() -> Mapping[str, str]:
    """The proxies of this machine, as build arguments that builders know and keep out of the image."""
    return {name: os.environ[name] for name in PROXIES if os.environ.get(name)}


def _settings() -> dict[str, str]:
    """pip's settings on this machine: files first, then the environment, whatever section they are in."""
    try:
        listed = shell.run([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    except shell.Failure:  # no pip here, so no settings either
        listed = []
    lines = sorted((line.partition("=") for line in listed), key=lambda line: line[0].startswith(":env:"))
    return {name.rpartition(".")[2]: " ".join(str(ast.literal_eval(value)).split()) for name, _, value in lines}
