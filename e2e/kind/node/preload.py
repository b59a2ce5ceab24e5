"""python3 -m e2e.kind.node.preload NODE ARCHIVES: put image archives into the containerd store of a node's root.

Run in mount, network and process namespaces of its own: NODE's containerd runs in a chroot, and whatever it leaves
behind ends with the namespaces. Images are stored, not unpacked.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from e2e import shell

MOUNTS = (
    ["-t", "proc", "proc", "proc"],
    ["-t", "sysfs", "-o", "ro", "sysfs", "sys"],
    ["-t", "tmpfs", "tmpfs", "run"],
    ["-t", "tmpfs", "tmpfs", "tmp"],
    ["--rbind", "/dev", "dev"],
)


def main(node: Path, archives: Path) -> None:
    """Import every archive of a folder."""
    shell.run(["mount", "--make-rprivate", "/"])
    for *options, place in MOUNTS:
        shell.run(["mount", *options, node / place])
    inside = ["chroot", str(node)]
    with (archives.parent / "containerd.log").open("w") as log:
        containerd = subprocess.Popen([*inside, "containerd"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not shell.succeeds([*inside, "ctr", "version"]):
            if containerd.poll() is not None or time.monotonic() > deadline:
                raise shell.Failure(f"containerd did not start: {Path(log.name).read_text()[-2000:]}")
            time.sleep(0.1)
        for archive in sorted(archives.glob("*.tar")):
            # pinned: the kubelet never deletes them when the disk fills up, for nothing could bring them back
            command = ["images", "import", "--label=io.cri-containerd.pinned=pinned", "--no-unpack", "-"]
            with archive.open("rb") as file:
                subprocess.run([*inside, "ctr", "-n", "k8s.io", *command], stdin=file, check=True, capture_output=True)
    finally:
        containerd.terminate()
        containerd.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
