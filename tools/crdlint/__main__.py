"""`python -m tools.crdlint FILE...`: one line for each finding; exit code 1 if there is one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import yaml
from tools.crdlint import definition, naming, shape
from tools.crdlint.exempt import EXEMPTIONS, Exemption
from tools.crdlint.model import Crd, Rule

RULES: Final[tuple[Rule, ...]] = (*definition.RULES, *naming.RULES, *shape.RULES)


def lint(crds: Iterable[Crd], exemptions: Sequence[Exemption]) -> list[str]:
    """What the rules find, a line each; an exemption that nothing needs is a finding, too."""
    lines, unused = [], set(exemptions)
    for crd in crds:
        for rule in RULES:
            for finding in rule(crd):
                covering = {exemption for exemption in exemptions if exemption.covers(rule.__name__, finding.path)}
                unused -= covering
                if not covering:
                    lines.append(f"{crd.kind}: {finding.path or 'top'}: {finding.text} ({rule.__name__})")
    lines += [f"exemption of {e.path} from {e.rule}: nothing needs it" for e in exemptions if e in unused]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.crdlint", description="Checks CRDs by the API conventions.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="CRD as YAML")
    parser.add_argument("--list", action="store_true", help="list the rules and what they ask for")
    options = parser.parse_args(arguments)
    if options.list:
        for rule in RULES:
            print(f"{rule.__name__}: {(rule.__doc__ or '').splitlines()[0]}")
        return 0
    crds = [Crd(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in options.files]
    lines = lint(crds, EXEMPTIONS)
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        print("what is so on purpose is exempted, with the reason, in tools/crdlint/exempt.py", file=sys.stderr)
    else:
        print(f"{len(crds)} CRDs, {len(RULES)} rules, {len(EXEMPTIONS)} exemptions: no findings")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
