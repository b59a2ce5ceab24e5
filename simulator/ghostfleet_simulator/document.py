"""The document by which a running server is configured, and the rule by which one replaces another.

A document is `{"revision": 7, "hash": "sha256:...", "config": {...}}`: the whole `ServerConfig`, a number that only
grows, and the hash of its live part. The same JSON lies in a pod's ConfigMap, is put to `/admin/config` and is written
by the laptop fleet, so a late file never undoes a push and a lost push is healed by the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ghostfleet_simulator.config import LIVE_FIELDS, LiveConfig, ServerConfig
from ghostfleet_simulator.problems import InvalidInput, Problem, nearest, validated


def _digest(config: ServerConfig | LiveConfig, live: bool) -> str:
    # Defaults are left out: a later version that adds a field changes no hash until somebody uses the field.
    tree = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    part = {key: value for key, value in tree.items() if (key in LIVE_FIELDS) is live}
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

    def walk(a: Any, b: Any, path: str) -> list[str]:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return [p for key in sorted(a.keys() | b.keys()) for p in walk(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
        return [] if a == b else [path]

    trees = [c.model_dump(mode="json", by_alias=True, exclude=set(LiveConfig.model_fields)) for c in (one, other)]
    return walk(*trees, "")


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
        for key in raw:
            if key not in ("revision", "hash", "config"):
                guess = nearest(str(key), ("revision", "hash", "config"))
                raise InvalidInput([Problem(str(key), "unknown field; " + (f"did you mean {guess!r}?" if guess else "allowed are revision, hash, config"))])
        revision, given = raw.get("revision"), raw.get("hash")
        if revision is not None and (isinstance(revision, bool) or not isinstance(revision, int) or not 0 <= revision < 2**63):
            raise InvalidInput([Problem("revision", f"{revision!r} is not a whole number of at least 0")])
        if "config" not in raw:
            raise InvalidInput([Problem("config", "required, but not given")])
        document = cls.of(validated(ServerConfig, raw["config"], "config"), revision)
        if given is not None and given != document.hash:
            raise InvalidInput([Problem("hash", f"{given!r} is not the hash of the live part, which is {document.hash}")])
        return document

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON."""
        return {"revision": self.revision, "hash": self.hash, "config": self.config.model_dump(mode="json", by_alias=True, exclude_none=True)}


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

    @property
    def revision(self) -> int:
        """Revision in force."""
        return self.document.revision or 0

    def offer(self, document: Document) -> InForce:
        """The state after `document` was put; `self` where it changes nothing. Raises `Refused`.

        A newer revision replaces; the same one does so only with the hash it first came with, which ends a patch; one
        without a number is the next where it differs.
        """
        if document.revision is None:
            if document.hash == self.document.hash:
                return self
            return InForce.start(Document(document.config, self.revision + 1, document.hash))
        if document.revision < self.revision:
            raise Refused(f"revision {document.revision} is older than revision {self.revision}, which is in force")
        if document.revision == self.revision and document.hash != self.first_hash:
            raise Refused(f"revision {document.revision} was first given with hash {self.first_hash}; a changed document needs a greater revision")
        if document.revision == self.revision and document.hash == self.document.hash:
            return self
        return InForce.start(document)

    def patch(self, raw: object) -> InForce:
        """The state after the live fields in `raw` (a JSON merge patch) were changed; the revision stays.

        Raises `InvalidInput` for a field that is unknown, wrong or needs a restart.
        """
        if not isinstance(raw, Mapping):
            raise InvalidInput([Problem("", f"a patch is an object with some of the fields {', '.join(LIVE_FIELDS)}")])
        tree = self.document.config.model_dump(mode="json", by_alias=True, exclude_none=True)
        for key in raw:
            if key not in LIVE_FIELDS:
                why = "needs a restart and cannot be patched" if key in tree else "unknown field"
                raise InvalidInput([Problem(str(key), f"{why}; live fields are {', '.join(LIVE_FIELDS)}")])
        config = validated(ServerConfig, _merged(tree, raw))
        return InForce(Document(config, self.revision, live_hash(config)), self.first_hash)


def _merged(tree: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7396): null removes, objects merge, all else replaces."""
    result = dict(tree)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result
