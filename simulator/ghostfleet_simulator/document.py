"""The document by which a running server is configured, and the rule by which one replaces another.

A document is `{"revision": 7, "hash": "sha256:...", "config": {...}}`: the whole `ServerConfig`, a number that only
grows, and the hash of its live part. The same JSON lies in a pod's ConfigMap, is put to `/admin/config` and is written
by the laptop fleet, so a late file never undoes a push and a lost push is healed by the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ghostfleet_simulator.config import LIVE_FIELDS, LiveConfig, ServerConfig
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest, validated


def _digest(config: ServerConfig | LiveConfig, live: bool) -> str:
    # Defaults are left out: a later version that adds a field changes no hash until somebody uses the field.
    fields = type(config).model_fields.keys()
    chosen = {name for name in fields if (name in LiveConfig.model_fields) is live}
    part = config.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=chosen)
    text = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def live_hash(config: ServerConfig | LiveConfig) -> str:
    """Hash of the part that a running server takes over at once."""
    return _digest(config, live=True)


def restart_hash(config: ServerConfig) -> str:
    """Hash of the part that takes effect at the next start."""
    return _digest(config, live=False)


def differing(one: ServerConfig, other: ServerConfig) -> list[str]:
    """Dotted paths of the restart-only fields in which two configurations differ."""

    def tree(config: ServerConfig) -> dict[str, Any]:
        return config.model_dump(mode="json", by_alias=True, exclude=set(LiveConfig.model_fields))

    def walk(a: Any, b: Any, path: tuple[str, ...]) -> list[str]:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return [p for key in sorted(a.keys() | b.keys()) for p in walk(a.get(key), b.get(key), (*path, key))]
        return [] if a == b else [".".join(path)]

    return walk(tree(one), tree(other), ())


_KEYS: Final = ("revision", "hash", "config")


def _unknown(key: str, known: Sequence[str]) -> str:
    guess = nearest(key, known)
    return f"unknown field; did you mean {guess!r}?" if guess else f"unknown field; allowed are {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration with its revision; `hash` is always that of the live part."""

    config: ServerConfig
    revision: int | None
    hash: str

    @classmethod
    def of(cls, config: ServerConfig, revision: int | None = None) -> Document:
        """A document of `config`; without a revision it counts as the next one where it differs."""
        return cls(config, revision, live_hash(config))

    @classmethod
    def parse(cls, raw: object) -> Document:
        """A document from JSON; raises `InvalidInput` with the paths of the fields that are wrong."""
        if not isinstance(raw, Mapping):
            raise InvalidInput([Problem("", "a document is an object with the fields revision, hash and config")])
        problems = [Problem(str(key), _unknown(str(key), _KEYS)) for key in raw if key not in _KEYS]
        revision, given = raw.get("revision"), raw.get("hash")
        if not (revision is None or (type(revision) is int and 0 <= revision < 2**63)):
            problems.append(Problem("revision", "is not a whole number from 0 to 2^63-1"))
        if "config" not in raw:
            problems.append(Problem("config", "required, but not given"))
            raise InvalidInput(problems)
        try:
            config = validated(ServerConfig, raw["config"], "config")
        except InvalidInput as error:
            raise InvalidInput((*problems, *error.problems)) from None
        document = cls.of(config, revision)
        if given is not None and given != document.hash:
            problems.append(Problem("hash", f"is not the hash of the live part of config, which is {document.hash}"))
        if problems:
            raise InvalidInput(problems)
        return document

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON."""
        config = self.config.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {"revision": self.revision, "hash": self.hash, "config": config}


class Refused(Exception):
    """A document that may not replace the one in force (HTTP 409)."""


@dataclass(frozen=True, slots=True)
class InForce:
    """What a server runs: the document with its live part as patched, and the hash its revision first came with."""

    document: Document
    first_hash: str

    @classmethod
    def start(cls, document: Document) -> InForce:
        """The state of a server that starts with `document`; without a revision it is revision 0."""
        return cls(Document(document.config, document.revision or 0, document.hash), document.hash)

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON, to be kept over a restart."""
        return {**self.document.to_json(), "firstHash": self.first_hash}

    @classmethod
    def from_json(cls, raw: object) -> InForce:
        """The state that `to_json` wrote; raises `InvalidInput`."""
        fields = dict(raw) if isinstance(raw, Mapping) else raw
        first_hash = fields.pop("firstHash", None) if isinstance(fields, dict) else None
        document = Document.parse(fields)
        return cls(InForce.start(document).document, first_hash if isinstance(first_hash, str) else document.hash)

    def resumed(self, start: Document) -> InForce:
        """This state, kept from before a restart, in a server that starts with `start`.

        What needs a restart is taken from `start`, and so is the live part where its revision is the newer one.
        """
        if start.revision is not None and start.revision > self.revision:
            return InForce.start(start)
        live = {name: getattr(self.document.config, name) for name in LiveConfig.model_fields}
        config = start.config.model_copy(update=live)
        return InForce(Document(config, self.revision, self.document.hash), self.first_hash)

    @property
    def revision(self) -> int:
        """Revision in force."""
        return self.document.revision or 0

    def offer(self, document: Document) -> InForce:
        """The state after `document` was put; `self` where it changes nothing. Raises `Refused`.

        A newer revision replaces; the same one does so only with the hash it first came with, which ends a patch; one
        without a number is the next where its live part differs. The restart-only part has no say in this: it is kept
        for the next start with whatever document is accepted.
        """
        revision, first_hash = document.revision, document.hash
        if revision is None and document.hash == self.document.hash:
            revision, first_hash = self.revision, self.first_hash
        elif revision is None:
            revision = self.revision + 1
        elif revision < self.revision:
            raise Refused(f"revision {revision} is older than revision {self.revision}, which is in force")
        elif revision == self.revision and document.hash != self.first_hash:
            raise Refused(
                f"revision {revision} was first given with hash {self.first_hash}; "
                "a changed document needs a greater revision"
            )
        following = InForce(Document(document.config, revision, document.hash), first_hash)
        return self if following == self else following

    def patch(self, raw: object) -> InForce:
        """The state after the live fields in `raw` (a JSON merge patch) were changed; the revision stays.

        Raises `InvalidInput` for a field that is unknown, wrong or needs a restart.
        """
        if not isinstance(raw, Mapping):
            raise InvalidInput([Problem("", f"a patch is an object with some of the fields {', '.join(LIVE_FIELDS)}")])
        tree = self.document.config.model_dump(mode="json", by_alias=True, exclude_none=True)
        fixed = f"needs a restart and cannot be patched; live fields are {', '.join(LIVE_FIELDS)}"
        problems = [
            Problem(str(key), fixed if key in tree else _unknown(str(key), LIVE_FIELDS))
            for key in raw
            if key not in LIVE_FIELDS
        ]
        if problems:
            raise InvalidInput(problems)
        config = validated(ServerConfig, _merged(tree, raw))
        return InForce(Document(config, self.revision, live_hash(config)), self.first_hash)


def _merged(tree: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7396): null removes, objects merge, all else replaces."""
    result = dict(tree)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = value
    return result
