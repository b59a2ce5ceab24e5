"""From what a watch tells to the keys that deserve a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ghostfleet_operator.reconcile.api import POD, PROFILE, SERVER, Key, Object, kind_of
from ghostfleet_operator.reconcile.store import Store, server_of

_USAGE_DELAY: Final = 0.5
"""Servers come and go in crowds; the count of a profile's users may be half a second late."""


class Mapper:
    """Feeds the store from watch events, and `add(key, delay)` with whatever may have to act on them."""

    def __init__(self, store: Store, add: Callable[[Key, float], None]) -> None:
        self._store = store
        self._add = add

    def event(self, obj: Object, *, deleted: bool) -> None:
        """Take in one event. What the operator itself wrote is known already and wakes nobody."""
        kind, meta = kind_of(obj), obj["metadata"]
        known = self._store.get(kind, meta["namespace"], meta["name"])
        if deleted:
            self._store.forget(kind, meta["namespace"], meta["name"], meta["uid"])
        elif not self._store.see(obj):
            return
        now = None if deleted else obj
        if kind == SERVER:
            self._server(known, now)
        elif kind == PROFILE:
            self._profile(known, now)
        elif kind != POD or _pod_facts(known) != _pod_facts(now):
            for owner in {server_of(o) for o in (known, now) if o}:
                if owner:
                    self._add(Key(SERVER, meta["namespace"], owner), 0.0)

    def _server(self, known: Object | None, now: Object | None) -> None:
        if _identity(known) == _identity(now):
            return
        for meta in [o["metadata"] for o in (now or known,) if o]:
            self._add(Key(SERVER, meta["namespace"], meta["name"]), 0.0)
            for name in {profile_of(o) for o in (known, now) if o and profile_of(o)}:
                self._add(Key(PROFILE, meta["namespace"], str(name)), _USAGE_DELAY)

    def _profile(self, known: Object | None, now: Object | None) -> None:
        if _identity(known) == _identity(now):
            return
        for meta in [o["metadata"] for o in (now or known,) if o]:
            self._add(Key(PROFILE, meta["namespace"], meta["name"]), 0.0)
            for server in users(self._store, meta["namespace"], meta["name"]):
                self._add(Key(SERVER, meta["namespace"], server), 0.0)


def profile_of(server: Object) -> str | None:
    """Name of the profile that a raw server refers to."""
    reference = (server.get("spec") or {}).get("profileRef")
    return reference.get("name") if isinstance(reference, dict) else None


def users(store: Store, namespace: str, profile: str) -> list[str]:
    """Names of the servers of a namespace that refer to a profile."""
    return [server["metadata"]["name"] for server in store.all(SERVER, namespace) if profile_of(server) == profile]


def is_ready(pod: Object) -> bool:
    """The pod's Ready condition: the one that Services and schedulers go by."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _identity(obj: Object | None) -> tuple[Any, ...] | None:
    """What has to change for an object of ours to deserve a pass: not its status."""
    meta = obj["metadata"] if obj else None
    return (meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp")) if meta else None


def _pod_facts(pod: Object | None) -> tuple[Any, ...] | None:
    if pod is None:
        return None
    meta, status = pod["metadata"], pod.get("status") or {}
    restarts = [c.get("restartCount") for c in status.get("containerStatuses") or ()]
    labels, ended = meta.get("labels"), meta.get("deletionTimestamp")
    return meta.get("uid"), labels, ended, is_ready(pod), status.get("podIP"), status.get("phase"), restarts
