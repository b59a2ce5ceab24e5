"""python3 -m e2e.kind: the kind cluster that the end-to-end tests run on.

up            have a cluster; a running one is kept
load IMAGE..  put images on its nodes: archives, or names of images that docker or buildah has
with COMMAND  run a command where the cluster is reachable, with KUBECONFIG set and kubectl and helm on PATH
down          delete the cluster; what makes the next `up` quick is kept
purge         delete the cluster and everything it left behind
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path

from e2e import cache, shell
from e2e.images import builder
from e2e.kind import engine
from e2e.kind.cluster import Cluster, default_workers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m e2e.kind", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up")
    up.add_argument("--workers", type=int, help="nodes beside the control plane (by default E2E_WORKERS, or 2)")
    actions.add_parser("load").add_argument("image", nargs="+")
    actions.add_parser("with").add_argument("command", nargs=argparse.REMAINDER)
    actions.add_parser("down")
    actions.add_parser("purge")
    return parser


def main() -> int:
    """Run the command line; the exit code."""
    arguments = _parser().parse_args()
    chosen = engine.choose()
    cluster = Cluster(chosen)
    match arguments.action:
        case "up":
            with cache.exclusive("cluster"):
                cluster.up(default_workers() if arguments.workers is None else arguments.workers)
        case "load":
            with tempfile.TemporaryDirectory() as folder:
                cluster.load([_archive(image, Path(folder)) for image in arguments.image])
        case "with":
            command = cluster.command(*arguments.command)
            os.execvpe(command[0], command, dict(cluster.environment()))
        case "down":
            with cache.exclusive("cluster"):
                cluster.down()
        case "purge":
            with cache.exclusive("cluster"):
                cluster.down()
                chosen.purge()
    return 0


def _archive(image: str, folder: Path) -> Path:
    """The archive that IMAGE is, or one made in `folder` of the image of that name."""
    if Path(image).is_file():
        return Path(image)
    archive = folder / f"{re.sub('[^a-z0-9.-]', '_', image)}.tar"
    builder.choose().save(image, archive)
    return archive


if __name__ == "__main__":
    shell.exit_with("e2e.kind", main)
