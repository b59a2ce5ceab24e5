"""The objects of a fleet, read from YAML files; the whole set is usable or every problem in it is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from ghostfleet_operator.kinds import (
    API_VERSION,
    GROUP,
    ProfileResource,
    SimulatedModelServer,
    parse_profile,
    parse_server,
)
from ghostfleet_operator.kinds.server import ProfileKind
from ghostfleet_operator.resolve import FindProfile, Resolved, Unresolved, resolve
from ghostfleet_simulator.files import read_documents
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_SERVER: Final = "SimulatedModelServer"
_OF_CLUSTER: Final = "ClusterLatencyProfile"
_KINDS: Final = (_SERVER, "LatencyProfile", _OF_CLUSTER)


class Key(NamedTuple):
    """Identity of an object; `namespace` is empty for a kind of the cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        scope = "" if self.namespace in ("", "default") else f"{self.namespace}/"
        return f"{self.kind} {scope}{self.name}"


@dataclass(frozen=True, slots=True)
class Source:
    """One object as it was written, and where."""

    place: str
    """The file, and which document in it where there are several."""
    raw: Mapping[str, Any]


@dataclass(slots=True)
class Objects:
    """What files say, before anything is checked but the identity of each object."""

    sources: dict[Key, Source] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    """One line for each object of a foreign API group, which the laptop fleet has no use for."""

    def resolved(self) -> tuple[Resolved, ...]:
        """Every server with its configuration, by name; raises `InvalidInput` with all problems of all objects."""
        problems: list[Problem] = []
        parsed: dict[Key, SimulatedModelServer | ProfileResource | InvalidInput] = {}
        for key, source in self.sources.items():
            try:
                parsed[key] = parse_server(source.raw) if key.kind == _SERVER else parse_profile(source.raw)
            except InvalidInput as error:
                parsed[key] = error
                problems += [_at(f"{source.place}: {key}", problem) for problem in error.problems]
        found = []
        for key, server in sorted(parsed.items()):
            if isinstance(server, SimulatedModelServer):
                place = f"{self.sources[key].place}: {key}"
                try:
                    found.append(resolve(server, _finder(parsed, key.namespace)))
                except Unresolved as error:
                    # What is wrong in a profile has been told already, where it is written.
                    if error.field:
                        problems.append(Problem(f"{place}: {error.field}", error.message))
        if problems:
            raise InvalidInput(problems)
        return tuple(found)

    def over(self, other: Objects) -> Objects:
        """These objects on top of others."""
        return Objects(other.sources | self.sources, [*other.skipped, *self.skipped])


def _finder(parsed: Mapping[Key, object], namespace: str) -> FindProfile:
    def find(kind: ProfileKind, name: str) -> ProfileResource | InvalidInput | None:
        found = parsed.get(Key(kind.value, "" if kind.value == _OF_CLUSTER else namespace, name))
        return found if isinstance(found, (ProfileResource, InvalidInput)) else None

    return find


def read(paths: Sequence[Path]) -> Objects:
    """The objects in files and folders (their YAML and JSON files, not those of folders in them).

    Raises `InvalidInput` where a file cannot be read, an object has no identity or two have the same.
    """
    objects = Objects()
    problems: list[Problem] = []
    for path in dict.fromkeys(expanded(paths, problems)):
        try:
            documents = read_documents(path)
        except InvalidInput as error:
            problems += [_at(str(path), problem) for problem in error.problems]
            continue
        for index, raw in enumerate(documents):
            place = f"{path} (document {index + 1})" if len(documents) > 1 else str(path)
            _add(objects, raw, place, problems)
    if problems:
        raise InvalidInput(problems)
    return objects


def expanded(paths: Iterable[Path], problems: list[Problem] | None = None) -> Iterator[Path]:
    """The files that `paths` stand for; a folder without any is a problem."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
        if not files and problems is not None:
            problems.append(Problem(str(path), f"holds no file that ends in {', '.join(_SUFFIXES)}"))
        yield from files


def _add(objects: Objects, raw: object, place: str, problems: list[Problem]) -> None:
    if isinstance(raw, dict) and raw.get("kind") == "List" and isinstance(raw.get("items"), list):
        for index, item in enumerate(raw["items"]):
            _add(objects, item, f"{place}: items[{index}]", problems)
        return
    problem = _identity_problem(raw)
    if problem:
        problems.append(_at(place, problem))
        return
    assert isinstance(raw, dict)  # noqa: S101 - what has an identity is an object
    metadata = raw["metadata"]
    namespace = metadata.get("namespace") or ("" if raw["kind"] == _OF_CLUSTER else "default")
    key = Key(raw["kind"], namespace, metadata["name"])
    if key.kind not in _KINDS:
        objects.skipped.append(f"{place}: {key} is not for a laptop fleet; it is skipped")
    elif key in objects.sources:
        problems.append(Problem(place, f"{key} is already in {objects.sources[key].place}"))
    else:
        objects.sources[key] = Source(place, raw)


def _identity_problem(raw: object) -> Problem | None:
    """What is wrong with the fields that say what an object is."""
    if not isinstance(raw, dict):
        return Problem("", "an object with apiVersion, kind, metadata and spec is expected")
    api_version, kind, metadata = raw.get("apiVersion"), raw.get("kind"), raw.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    for path, value in (("apiVersion", api_version), ("kind", kind), ("metadata.name", metadata.get("name"))):
        if not isinstance(value, str) or not value:
            return Problem(path, "required, but not given" if value in (None, "") else "must be a string")
    if not isinstance(metadata.get("namespace") or "", str):
        return Problem("metadata.namespace", "must be a string")
    if kind == _OF_CLUSTER and metadata.get("namespace"):
        return Problem("metadata.namespace", f"a {kind} belongs to no namespace; leave it out")
    return _kind_problem(str(api_version), str(kind))


def _kind_problem(api_version: str, kind: str) -> Problem | None:
    ours = api_version.partition("/")[0] == GROUP or nearest(api_version, [API_VERSION]) or kind in _KINDS
    if ours and api_version != API_VERSION:
        return Problem("apiVersion", f"{api_version!r} is not {API_VERSION!r}")
    if ours and kind not in _KINDS:
        guess = nearest(kind, _KINDS)
        hint = f"did you mean {guess!r}?" if guess else f"there are {', '.join(_KINDS)}"
        return Problem("kind", f"unknown kind {kind!r}; {hint}")
    return None


def _at(place: str, problem: Problem) -> Problem:
    return Problem(f"{place}: {problem.path}" if problem.path else place, problem.message)
