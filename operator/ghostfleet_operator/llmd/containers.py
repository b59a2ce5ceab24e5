"""The container of llm-d-inference-sim in a pod: which it is, its arguments, its variables and its file."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ghostfleet_operator.llmd.report import Report, Verdict
from ghostfleet_simulator.files import parse_documents
from ghostfleet_simulator.llmd.arguments import parse
from ghostfleet_simulator.llmd.load import DEV_MODE, HASH_SEED, MODEL, NAME
from ghostfleet_simulator.problems import InvalidInput, Problem

_REFERENCE: Final = re.compile(r"\$(\$)|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_UNFILLED: Final = re.compile(r"\$\{[A-Za-z_]\w*\}")
_HEEDED: Final = frozenset({MODEL, HASH_SEED, DEV_MODE})
_NEEDLESS: Final = {
    **dict.fromkeys(("POD_IP", "POD_NAME", "POD_NAMESPACE", "NAMESPACE"), "the operator sets it"),
    **dict.fromkeys(("GOMEMLIMIT", "GOGC", "GOMAXPROCS"), "it is Go's"),
    "PORT": "nothing reads it",
}
_SIDECARS: Final = (
    ("render", Verdict.NOT_NEEDED, "tokens come from the tokenizer that ghostfleet brings along"),
    ("tokenizer", Verdict.NOT_NEEDED, "tokens come from the tokenizer that ghostfleet brings along"),
    (
        "sidecar",
        Verdict.DROPPED,
        "the operator makes no pods with a sidecar for prefill and decode; keep this manifest, with our image in it",
    ),
)

Maps = Mapping[str, Mapping[str, str]]
"""Data of the ConfigMaps of a namespace, by name."""


def objects_in(value: object) -> Iterator[Mapping[str, Any]]:
    """The mappings in a list; nothing where it is none."""
    for item in value if isinstance(value, list) else []:
        if isinstance(item, Mapping):
            yield item


def find(pod: Mapping[str, Any], wanted: str | None = None) -> Mapping[str, Any] | None:
    """The simulator's container in the spec of a pod: the one of the name `wanted`, or by its image."""
    for container in objects_in(pod.get("containers")):
        image = str(container.get("image", "")).partition("@")[0]
        name = image.rpartition("/")[2].partition(":")[0]
        if container.get("name") == wanted if wanted else name == NAME:
            return container
    return None


def unfilled(value: object) -> str | None:
    """The first `${VARIABLE}` that is still in an object."""
    found = _UNFILLED.search(str(value))
    return found[0] if found else None


class Container:
    """The simulator's container."""

    def __init__(self, container: Mapping[str, Any], place: str, maps: Maps, report: Report) -> None:
        self._container = container
        self._place = place
        self._maps = maps
        self._report = report
        self.environ = self._environment()
        """Variables with known values, as llm-d-inference-sim would see them."""

    def arguments(self) -> list[str]:
        """Its arguments, `$(NAME)` filled in as Kubernetes does. Raises `InvalidInput`."""
        command = [str(word) for word in self._container.get("command") or ()]
        if command and posixpath.basename(command[0]) != NAME:
            raise InvalidInput([Problem(f"{self._place}: command", f"{command[0]!r} is not {NAME}")])
        words = command[1:] + [str(word) for word in self._container.get("args") or ()]
        return [self._filled(word) for word in words]

    def file(self, arguments: Sequence[str], volumes: object) -> Mapping[str, Any] | None:
        """The content of the file that `--config` names, from a ConfigMap of the same import; None without the flag.

        Raises `InvalidInput` where there is no such file.
        """
        path = parse(arguments).config
        if path is None:
            return None
        for mount in objects_in(self._container.get("volumeMounts")):
            folder = str(mount.get("mountPath", "")).rstrip("/")
            if mount.get("subPath") and folder == path:
                key = str(mount["subPath"])
            elif posixpath.dirname(path) == folder:
                key = posixpath.basename(path)
            else:
                continue
            text = self._mounted(str(mount.get("name")), key, volumes)
            if text is not None:
                return self._parsed(path, text)
        message = "no ConfigMap that is mounted there is among the documents; add it to them"
        raise InvalidInput([Problem(f"{self._place}: --config {path}", message)])

    def _mounted(self, volume: str, key: str, volumes: object) -> str | None:
        source = next((v.get("configMap") for v in objects_in(volumes) if v.get("name") == volume), None)
        if not isinstance(source, Mapping):
            return None
        for item in objects_in(source.get("items")):
            if item.get("path") == key:
                key = str(item.get("key"))
        return self._maps.get(str(source.get("name")), {}).get(key)

    def _parsed(self, path: str, text: str) -> Mapping[str, Any]:
        content = next(iter(parse_documents(text)), {})
        if not isinstance(content, Mapping):
            raise InvalidInput([Problem(f"{self._place}: {path}", "must hold a mapping from names to values")])
        return content

    def _environment(self) -> dict[str, str]:
        environ: dict[str, str] = {}
        for source in objects_in(self._container.get("envFrom")):
            reference = source.get("configMapRef")
            if isinstance(reference, Mapping) and str(reference.get("name")) in self._maps:
                prefix = str(source.get("prefix") or "")
                values = self._maps[str(reference["name"])]
                environ |= {f"{prefix}{key}": value for key, value in values.items()}
            else:
                self._report.add(self._place, Verdict.CHECK, "envFrom: its values are not among the documents")
        for entry in objects_in(self._container.get("env")):
            name, value = str(entry.get("name")), self._value(entry)
            if value is not None:
                environ[name] = _fill(value, environ)[0]
            if name in _NEEDLESS:
                self._report.add(self._place, Verdict.NOT_NEEDED, f"variable {name}: {_NEEDLESS[name]}")
            elif name in _HEEDED and value is None:
                self._report.add(self._place, Verdict.CHECK, f"variable {name}: its value is not in the manifest")
            elif name not in _HEEDED and not self._is_referred_to(name):
                self._report.add(self._place, Verdict.DROPPED, f"variable {name}")
        return environ

    def _is_referred_to(self, name: str) -> bool:
        words = [*(self._container.get("command") or ()), *(self._container.get("args") or ())]
        words += [entry.get("value") for entry in objects_in(self._container.get("env"))]
        return any(f"$({name})" in str(word) for word in words)

    def _value(self, entry: Mapping[str, Any]) -> str | None:
        if "valueFrom" not in entry:
            return str(entry.get("value") or "")
        source = entry["valueFrom"] if isinstance(entry["valueFrom"], Mapping) else {}
        reference = source.get("configMapKeyRef")
        if isinstance(reference, Mapping):
            return self._maps.get(str(reference.get("name")), {}).get(str(reference.get("key")))
        return None

    def _filled(self, word: str) -> str:
        filled, missing = _fill(word, self.environ)
        for name in missing:
            self._report.add(self._place, Verdict.CHECK, f"{word!r}: the value of {name} is not in the manifest")
        return filled


def _fill(word: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The word with references to variables filled in, and the variables that are not known; `$$` is a dollar."""
    missing = []

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        if match[2] not in environ:
            missing.append(match[2])
            return match[0]
        return environ[match[2]]

    return _REFERENCE.sub(value, word), missing


def judge_others(pod: Mapping[str, Any], mine: Mapping[str, Any], place: str, report: Report) -> None:
    """Tell of every other container of the pod."""
    for kind in ("initContainers", "containers"):
        for container in objects_in(pod.get(kind)):
            if container is mine:
                continue
            called = f"container {container.get('name')}"
            known = f"{container.get('name')} {container.get('image')}"
            verdict, why = next(
                ((verdict, why) for word, verdict, why in _SIDECARS if word in known),
                (Verdict.DROPPED, "the operator makes pods with one container"),
            )
            report.add(place, verdict, f"{called}: {why}")
