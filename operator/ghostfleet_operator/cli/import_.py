"""`ghostfleet import`: what was written for llm-d-inference-sim as objects of ours."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from ghostfleet_operator.cli.errors import CommandError, Exit
from ghostfleet_operator.cli.parser import Parser, say, tell
from ghostfleet_operator.kinds.server import LONGEST_NAME
from ghostfleet_operator.llmd.manifests import translated
from ghostfleet_operator.llmd.report import Report
from ghostfleet_operator.llmd.servers import blocks_of, server_of_settings
from ghostfleet_operator.llmd.servers import tell as tell_of
from ghostfleet_operator.local.objects import expanded
from ghostfleet_simulator.files import parse_documents, read_documents
from ghostfleet_simulator.llmd.load import read
from ghostfleet_simulator.llmd.settings import SETTINGS, LlmdSettings
from ghostfleet_simulator.llmd.translate import live_tree, times_patch
from ghostfleet_simulator.problems import InvalidInput, Problem, validated

_EPILOG: Final = """\
FILE holds one of these, and `-` is standard input:
  manifests           YAML with Deployments and whatever stands beside them, as kustomize or helm print it; the same
                      comes out, each workload of the simulator being a LatencyProfile and a SimulatedModelServer
  a configuration     what llm-d-inference-sim takes with --config
  a body              what is posted to its /admin/config; a merge patch for ours comes out

Flags of llm-d-inference-sim stand behind `--`:
  ghostfleet import -- --model m --max-num-seqs 5 --time-to-first-token 100ms

What became of everything that is not simply the same is told on standard error.
"""
_HOT: Final = frozenset(name for name, setting in SETTINGS.items() if setting.hot)


def main(argv: Sequence[str]) -> int:
    """Prints the objects; tells on standard error what is not the same."""
    words = list(argv)
    flags = None
    if "--" in words:
        at = words.index("--")
        words, flags = words[:at], words[at + 1 :]
    parser = Parser("import", "Turns what was written for llm-d-inference-sim into objects of ours.", _EPILOG)
    parser.add_argument("files", nargs="*", metavar="FILE", help="files and folders")
    parser.add_argument("--container", metavar="NAME", help="the simulator's container where the image does not tell")
    parser.add_argument("--name", metavar="NAME", help="name of a server made of flags or a configuration")
    parser.add_argument("--namespace", metavar="NAME", default="", help="its namespace")
    parser.add_argument(
        "--to",
        choices=("objects", "config"),
        default="objects",
        help="objects, or a file for `ghostfleet serve --config`",
    )
    parser.add_argument("--strict", action="store_true", help="fail where anything is not the same as it was")
    given = parser.parse_args(words)
    documents = _documents(given.files)
    if not documents and flags is None:
        raise CommandError("give a file, or flags behind --", Exit.USAGE)
    report = Report()
    if documents and all("kind" in raw for _, raw in documents):
        if flags is not None or given.to == "config":
            raise CommandError("manifests become objects, and go without flags", Exit.USAGE)
        text = _yaml(translated(documents, report, given.container))
    elif len(documents) > 1:
        raise CommandError("a configuration is one document; manifests all have a kind", Exit.USAGE)
    else:
        text = _of_settings(documents[0] if documents else None, flags, given, report)
    tell(text)
    for place in dict.fromkeys(remark.place for remark in report.remarks):
        say(f"{place}:")
        for remark in report.remarks:
            if remark.place == place:
                say(f"  {remark.verdict}: {remark.text}")
    return Exit.FAILED if given.strict and report.lossy else Exit.OK


def _documents(files: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Every document with its place. Raises `InvalidInput`."""
    found: list[tuple[str, dict[str, Any]]] = []
    problems: list[Problem] = []
    for path in dict.fromkeys(expanded(map(Path, files), problems)):
        try:
            documents = parse_documents(sys.stdin.read()) if str(path) == "-" else read_documents(path)
        except InvalidInput as error:
            problems += [Problem(f"{path}: {p.path}" if p.path else str(path), p.message) for p in error.problems]
            continue
        for index, raw in enumerate(documents):
            place = f"{path} (document {index + 1})" if len(documents) > 1 else str(path)
            if isinstance(raw, dict):
                found.append((place, raw))
            else:
                problems.append(Problem(place, "must hold a mapping from names to values"))
    if problems:
        raise InvalidInput(problems)
    return found


def _of_settings(
    document: tuple[str, dict[str, Any]] | None, flags: list[str] | None, given: Namespace, report: Report
) -> str:
    """What a file, flags, or both say: objects, a configuration, or a patch."""
    place, content = document or ("flags", None)
    if content is not None and flags is None and content and all(key in _HOT for key in content):
        return json.dumps(_patch(content, place), indent=2)
    found = read(flags or [], {"POD_IP": "0.0.0.0"}, content)  # noqa: S104 - only that there is one counts
    tell_of(found, place, report)
    if given.to == "config":
        tree, profile = blocks_of(found)
        return _yaml([{**tree, "profile": profile, "listen": {"port": found.settings.port}}])
    name = given.name or _name(found.settings.model)
    return _yaml(server_of_settings(found, name, given.namespace).documents())


def _patch(body: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A body of its `POST /admin/config` as one of our `PATCH /admin/config`."""
    set_ = {key: value for key, value in body.items() if value is not None}
    try:
        settings = validated(LlmdSettings, {"model": "m", **set_})
    except InvalidInput as error:
        raise InvalidInput(Problem(f"{place}: {p.path}", p.message) for p in error.problems) from None
    patch: dict[str, Any] = {}
    if times := times_patch(settings, set_):
        patch["profile"] = {"simple": times}
    if set_.keys() & {"failure-injection-rate", "failure-types"}:
        patch["failures"] = live_tree(settings, ("failures",)).get("failures", [])
    return patch | live_tree(settings, ("fakeMetrics",))


def _name(model: str) -> str:
    """A name for the server of a model: `Qwen/Qwen3-8B` is `qwen3-8b`."""
    word = re.sub(r"[^a-z0-9]+", "-", model.rpartition("/")[2].lower()).strip("-")
    return (word if word[:1].isalpha() else f"model-{word}")[:LONGEST_NAME].strip("-")


def _yaml(documents: Iterable[Mapping[str, Any]]) -> str:
    text: str = yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
    return text.rstrip("\n")


class _Plain(yaml.SafeDumper):
    """YAML without anchors for what is there twice."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the shape of the method
        """Nothing has one."""
        return True
