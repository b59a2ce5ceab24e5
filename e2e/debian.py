"""Debian's packages: installed on this machine, or as the root file system of an image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from e2e import cache, shell

# Program -> the packages that have it, the first one known to apt is taken (docker's client moved after bookworm).
PACKAGES = {
    "buildah": ("buildah",),
    "debootstrap": ("debootstrap",),
    "docker": ("docker-cli", "docker.io"),
    "dockerd": ("docker.io",),
    "containerd": ("containerd",),
    "runc": ("runc",),
    "ip": ("iproute2",),
    "iptables": ("iptables",),
    "sysctl": ("procps",),
}
# dockerd and others live where a user's PATH may not lead.
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
UNNEEDED = (
    *("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man"),
    *("var/cache/apt", "var/lib/apt/lists/*", "var/log/*", "etc/apt/sources.list"),
    *("etc/hostname", "etc/resolv.conf"),
)
POLICY = Path("/usr/sbin/policy-rc.d")


def require(*programs: str) -> None:
    """Have these programs on this machine, from Debian packages where they are missing. Needs root to install."""
    missing = [program for program in programs if not shutil.which(program, path=SYSTEM_PATH)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise shell.Failure(f"missing programs: {', '.join(missing)} (and there is no apt-get to install them with)")
    if os.geteuid():
        raise shell.Failure(f"missing programs: {', '.join(missing)}; only root can install them")
    with shell.step(f"installing {', '.join(missing)}"):
        _update()
        packages = sorted({_package(program) for program in missing})
        with _no_daemons():
            shell.run(
                ["apt-get", "install", "-qy", "--no-install-recommends", "-o", "Acquire::Retries=3", *packages],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            )


def bootstrap(suite: str, packages: Sequence[str], folder: Path) -> None:
    """Make `folder` the root of a minimal Debian `suite` with `packages`, from the mirror this machine's apt uses.

    Documentation is left out, and so is what tells of the machine it was made on: its name, name servers and mirror.
    """
    require("debootstrap")
    include = f"--include={','.join(packages)}"
    shell.run(["debootstrap", "--variant=minbase", include, suite, folder, *_mirror()])
    for unneeded in UNNEEDED:
        for path in folder.glob(unneeded):
            cache.remove(path)


def _mirror() -> list[str]:
    """The address of Debian's archive in this machine's apt sources; nothing, for debootstrap's own, where none is."""
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    if not shell.run(query):
        _update()
    return shell.run(query).split()[:1]


def _update() -> None:
    shell.run(["apt-get", "update", "-q", "-o", "Acquire::Retries=3"])


def _package(program: str) -> str:
    choices = PACKAGES[program]
    for package in choices[:-1]:
        if shell.succeeds(["apt-cache", "show", package]):
            return package
    return choices[-1]


@contextmanager
def _no_daemons() -> Iterator[None]:
    """Keep packages from starting their daemons, which would set up networks and firewalls on this machine."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
