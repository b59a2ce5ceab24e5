"""python3 -m e2e.images: build the images ghostfleet-sim and ghostfleet-operator, and print their names.

An archive of each is left in the cache folder, from where `python3 -m e2e.kind load` takes it. The environment variable
IMAGE_PREFIX goes before the names (`registry.example/team/`), BASE replaces the base image.
"""

from __future__ import annotations

import argparse
import os

from e2e import shell
from e2e.images.build import NAMES, Images


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m e2e.images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", nargs="*", help=f"some of {', '.join(NAMES)}; all by default")
    parser.add_argument("--push", action="store_true", help="send them to the registry that IMAGE_PREFIX names")
    arguments = parser.parse_args()
    wanted = arguments.image or NAMES
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"no such image: {', '.join(unknown)} (known: {', '.join(NAMES)})")
    images = Images(os.environ.get("IMAGE_PREFIX", ""))
    for which in wanted:
        images.build(which)
        if arguments.push:
            images.push(which)
        print(images.name(which))
    return 0


if __name__ == "__main__":
    shell.exit_with("e2e.images", main)
