"""python3 -m e2e.build COMPONENT...: build the named Kubernetes parts once and print the folder that has them."""

from __future__ import annotations

import argparse

from e2e import shell
from e2e.build import binaries
from e2e.build.components import API_SERVER, COMPONENTS
from e2e.build.manifests import inference_extension


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m e2e.build", description=__doc__)
    parser.add_argument(
        "component",
        nargs="*",
        default=API_SERVER,
        help=f"{', '.join(COMPONENTS)}; by default {', '.join(API_SERVER)}",
    )
    parser.add_argument("--inference-extension-crds", action="store_true", help="have the CRDs of the InferencePool there, too")
    options = parser.parse_args()
    names = options.component
    if unknown := [name for name in names if name not in COMPONENTS]:
        parser.error(f"no such component: {', '.join(unknown)} (known: {', '.join(COMPONENTS)})")
    if options.inference_extension_crds:
        inference_extension()
    print(binaries.ensure(names))
    return 0


if __name__ == "__main__":
    shell.exit_with("e2e.build", main)
