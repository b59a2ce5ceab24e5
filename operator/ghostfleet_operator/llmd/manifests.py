"""Manifests with llm-d-inference-sim in them as the same manifests with servers of ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ghostfleet_operator.llmd.containers import find, unfilled
from ghostfleet_operator.llmd.others import kept
from ghostfleet_operator.llmd.report import Report
from ghostfleet_operator.llmd.servers import Server, is_workload, pod_of, server_of
from ghostfleet_simulator.problems import InvalidInput, Problem

Placed = tuple[str, dict[str, Any]]
"""A document and where it stands."""


def flattened(documents: Sequence[tuple[str, object]]) -> Iterator[Placed]:
    """The objects in documents, those of Lists one by one. Raises `InvalidInput` for what is none."""
    for place, raw in documents:
        if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
            raise InvalidInput([Problem(place, "an object with apiVersion, kind, metadata and spec is expected")])
        if isinstance(raw.get("items"), list) and raw["kind"].endswith("List"):
            yield from flattened([(place, item) for item in raw["items"]])
        else:
            name = (raw.get("metadata") or {}).get("name")
            yield f"{place}: {raw['kind']} {name}", raw


def translated(
    documents: Sequence[tuple[str, object]], report: Report, container: str | None = None
) -> list[dict[str, Any]]:
    """The documents in their order, with a profile and a server in the place of each workload of the simulator.

    `container` names the simulator's container where its image does not tell it. Raises `InvalidInput` with all
    problems, and where there is no such workload.
    """
    objects = list(flattened(documents))
    maps = _config_maps(objects)
    problems: list[Problem] = []
    servers: dict[int, Server] = {}
    for index, (place, raw) in enumerate(objects):
        if not is_workload(raw):
            continue
        try:
            if find(pod_of(raw)[1], container) is None:
                _no_variables(place, raw, in_image=True)
                continue
            _no_variables(place, raw)
            servers[index] = server_of(raw, place, maps[_namespace(raw)], report, container)
        except InvalidInput as error:
            problems += [
                p if p.path.startswith(place) else Problem(f"{place}: {p.path}", p.message) for p in error.problems
            ]
    if not problems and not servers:
        problems.append(Problem("", "no workload has a container of llm-d-inference-sim; --container names it"))
    if problems:
        raise InvalidInput(problems)
    made: list[dict[str, Any]] = []
    others = {
        index: kept(raw, place, list(servers.values()), report)
        for index, (place, raw) in enumerate(objects)
        if index not in servers
    }
    for index in range(len(objects)):
        if index in servers:
            made += servers[index].documents()
        elif (other := others[index]) is not None:
            made.append(other)
    return made


def _no_variables(place: str, raw: Mapping[str, Any], *, in_image: bool = False) -> None:
    images = [
        container.get("image") for container in pod_of(raw)[1].get("containers") or () if isinstance(container, Mapping)
    ]
    if variable := unfilled(images if in_image else raw):
        raise InvalidInput([Problem(place, f"{variable} is still to be filled in, for instance by envsubst")])


def _namespace(raw: Mapping[str, Any]) -> str:
    return str((raw.get("metadata") or {}).get("namespace") or "")


def _config_maps(objects: Sequence[Placed]) -> Mapping[str, dict[str, dict[str, str]]]:
    maps: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for _, raw in objects:
        if raw["kind"] == "ConfigMap":
            name = str((raw.get("metadata") or {}).get("name"))
            maps[_namespace(raw)][name] = {key: str(value) for key, value in (raw.get("data") or {}).items()}
    return maps
