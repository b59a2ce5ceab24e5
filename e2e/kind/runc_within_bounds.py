#!/usr/bin/python3 -IS
"""runc for machines that hold less than every capability.

A privileged container, as each kind node is, asks for all capabilities; runc stops at the first one it cannot grant.
dockerd calls this instead of runc: it takes what this machine does not hold out of the bundle's configuration
(`--bundle`) or of the process to start in a container (`--process`), and becomes runc.
"""

import json
import os
import sys
from pathlib import Path

# The kernel's numbers of capabilities that such machines have been seen to lack: linux/capability.h
KNOWN = {"CAP_SYS_MODULE": 16, "CAP_SYS_BOOT": 22, "CAP_SYS_RESOURCE": 24, "CAP_SYS_TIME": 25}
PLACES = ("/usr/sbin/runc", "/usr/bin/runc")


def missing() -> set[str]:
    """The known capabilities outside this process's bounding set."""
    status = Path("/proc/self/status").read_text().splitlines()
    bounds = next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd:"))
    return {name for name, bit in KNOWN.items() if not bounds >> bit & 1}


def reduce(path: Path, lacking: set[str]) -> None:
    """Take capabilities out of a container's configuration, or of a process's, in place."""
    document = json.loads(path.read_text())
    sets = document.get("process", document).get("capabilities") or {}
    for name, capabilities in sets.items():
        sets[name] = [capability for capability in capabilities if capability not in lacking]
    path.write_text(json.dumps(document))


def main() -> None:
    """Reduce what the arguments point to, then become runc."""
    if lacking := missing():
        for option, value in zip(sys.argv, sys.argv[1:], strict=False):
            path = {"--bundle": Path(value, "config.json"), "--process": Path(value)}.get(option)
            if path and path.exists():
                reduce(path, lacking)
    runc = next(path for path in PLACES if Path(path).exists())
    os.execv(runc, [runc, *sys.argv[1:]])


if __name__ == "__main__":
    main()
