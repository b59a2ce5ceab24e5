"""From what a watch tells to the keys that deserve a pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from ghostfleet_operator.reconcile.api import (
    OWN,
    POD,
    PROFILE,
    PROFILES,
    SERVER,
    Key,
    Kind,
    Object,
    kind_of,
    namespace_of,
)
from ghostfleet_operator.reconcile.store import Store, server_of
from ghostfleet_operator.reconcile.trouble import trouble_of

_USAGE_DELAY: Final = 0.5
"""Servers come and go in crowds; the count of a profile's users may be half a second late."""


_CHILD_DELAY: Final = 0.1
"""A Deployment and its pods change several times within a moment on their way; one pass and one status will do."""

_Told = tuple[tuple[Any, ...], Key | None]
"""What has to change in an object of ours for it to deserve a pass, and the profile that it refers to."""


class Mapper:
    """Feeds the store from watch events, and `add(key, delay)` with whatever may have to act on them.

    `own` are those of our kinds that there are passes over.
    """

    def __init__(self, store: Store, add: Callable[[Key, float], None], own: Collection[Kind] = OWN) -> None:
        self._store = store
        self._add = add
        self._own_kinds = own
        self._told: dict[Key, _Told] = {}
        """What the watches last told of our own kinds. The store may be ahead of it."""

    def event(self, obj: Object, *, deleted: bool) -> None:
        """Take in one event. What the operator itself wrote is known already and wakes nobody."""
        kind, namespace, meta = kind_of(obj), namespace_of(obj), obj["metadata"]
        known = self._store.get(kind, namespace, meta["name"])
        if deleted:
            self._store.forget(kind, namespace, meta["name"], meta["uid"])
        fresh = deleted or self._store.see(obj)
        now = None if deleted else obj
        if kind in OWN:
            self._own(Key(kind, namespace, meta["name"]), now)
        elif fresh and (kind != POD or _pod_facts(known) != _pod_facts(now)):
            for owner in {server_of(o) for o in (known, now) if o}:
                if owner:
                    self._add(Key(SERVER, namespace, owner), _CHILD_DELAY)

    def believed(self, kind: Kind, namespace: str | None) -> dict[Key, str | None]:
        """What is thought to exist of a kind, with the version that is known of it."""
        told = {key: None for key in self._told if key.kind == kind and namespace in (None, key.namespace)}
        known = self._store.all(kind, namespace)
        return told | {
            Key(kind, namespace_of(o), o["metadata"]["name"]): o["metadata"]["resourceVersion"] for o in known
        }

    def gone(self, key: Key, version: str | None) -> None:
        """Take in that an object is not there any more, unless another version of it was seen meanwhile."""
        known = self._store.get(key.kind, key.namespace, key.name)
        if known is not None and known["metadata"]["resourceVersion"] == version:
            self.event(known, deleted=True)
        elif known is None and key in self._told:
            self._own(key, None)

    def _own(self, key: Key, now: Object | None) -> None:
        """An event of our own kinds. A pass over one object may have read another before its event came (a server its
        profile, a profile its servers), so it is compared with the last event and not with the store."""
        before, after = self._told.pop(key, None), (_identity(now), profile_of(now)) if now else None
        if after:
            self._told[key] = after
        if before == after:
            return
        self._add(key, 0.0)
        if key.kind != SERVER:
            for server in users(self._store, key):
                self._add(server, 0.0)
        for profile in {told[1] for told in (before, after) if told}:
            if profile and profile.kind in self._own_kinds:
                self._add(profile, _USAGE_DELAY)


def profile_of(server: Object) -> Key | None:
    """The profile that a raw server refers to."""
    reference = (server.get("spec") or {}).get("profileRef")
    if not isinstance(reference, dict):
        return None
    kind, name = PROFILES.get(str(reference.get("kind", PROFILE.name))), reference.get("name")
    if kind is None or not isinstance(name, str):
        return None
    return Key(kind, namespace_of(server) if kind.namespaced else "", name)


def users(store: Store, profile: Key) -> list[Key]:
    """The servers that refer to a profile."""
    servers = store.all(SERVER, profile.namespace or None)
    return [Key(SERVER, namespace_of(s), s["metadata"]["name"]) for s in servers if profile_of(s) == profile]


def is_ready(pod: Object) -> bool:
    """The pod's Ready condition: the one that Services and schedulers go by."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _identity(obj: Object) -> tuple[Any, ...]:
    """What has to change for an object of ours to deserve a pass: not its status."""
    meta = obj["metadata"]
    return meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp")


def _pod_facts(pod: Object | None) -> tuple[Any, ...] | None:
    if pod is None:
        return None
    meta, status = pod["metadata"], pod.get("status") or {}
    restarts = [c.get("restartCount") for c in status.get("containerStatuses") or ()]
    labels, ended, ready = meta.get("labels"), meta.get("deletionTimestamp"), is_ready(pod)
    trouble = None if ready else trouble_of(pod)
    return meta.get("uid"), labels, ended, ready, status.get("podIP"), status.get("phase"), restarts, trouble
