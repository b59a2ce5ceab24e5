"""From what a watch tells to the keys that deserve a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ghostfleet_operator.reconcile.api import OWN, POD, PROFILE, SERVER, Key, Kind, Object, kind_of
from ghostfleet_operator.reconcile.store import Store, server_of

_USAGE_DELAY: Final = 0.5
"""Servers come and go in crowds; the count of a profile's users may be half a second late."""


_Told = tuple[tuple[Any, ...], str | None]
"""What has to change in an object of ours for it to deserve a pass, and the profile that it refers to."""


class Mapper:
    """Feeds the store from watch events, and `add(key, delay)` with whatever may have to act on them."""

    def __init__(self, store: Store, add: Callable[[Key, float], None]) -> None:
        self._store = store
        self._add = add
        self._told: dict[tuple[Kind, str, str], _Told] = {}
        """What the watches last told of our own kinds. The store may be ahead of it."""

    def event(self, obj: Object, *, deleted: bool) -> None:
        """Take in one event. What the operator itself wrote is known already and wakes nobody."""
        kind, meta = kind_of(obj), obj["metadata"]
        known = self._store.get(kind, meta["namespace"], meta["name"])
        if deleted:
            self._store.forget(kind, meta["namespace"], meta["name"], meta["uid"])
        fresh = deleted or self._store.see(obj)
        now = None if deleted else obj
        if kind in OWN:
            self._own((kind, meta["namespace"], meta["name"]), now)
        elif fresh and (kind != POD or _pod_facts(known) != _pod_facts(now)):
            for owner in {server_of(o) for o in (known, now) if o}:
                if owner:
                    self._add(Key(SERVER, meta["namespace"], owner), 0.0)

    def _own(self, place: tuple[Kind, str, str], now: Object | None) -> None:
        """An event of our own kinds. A pass over one object may have read another before its event came (a server its
        profile, a profile its servers), so it is compared with the last event and not with the store."""
        before, after = self._told.pop(place, None), (_identity(now), profile_of(now)) if now else None
        if after:
            self._told[place] = after
        if before == after:
            return
        kind, namespace, name = place
        self._add(Key(kind, namespace, name), 0.0)
        if kind == PROFILE:
            for server in users(self._store, namespace, name):
                self._add(Key(SERVER, namespace, server), 0.0)
        for profile in {told[1] for told in (before, after) if told}:
            if profile:
                self._add(Key(PROFILE, namespace, profile), _USAGE_DELAY)


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


def _identity(obj: Object) -> tuple[Any, ...]:
    """What has to change for an object of ours to deserve a pass: not its status."""
    meta = obj["metadata"]
    return meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp")


def _pod_facts(pod: Object | None) -> tuple[Any, ...] | None:
    if pod is None:
        return None
    meta, status = pod["metadata"], pod.get("status") or {}
    restarts = [c.get("restartCount") for c in status.get("containerStatuses") or ()]
    labels, ended = meta.get("labels"), meta.get("deletionTimestamp")
    return meta.get("uid"), labels, ended, is_ready(pod), status.get("podIP"), status.get("phase"), restarts
