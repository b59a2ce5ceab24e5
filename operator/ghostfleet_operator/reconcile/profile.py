"""One pass over one `LatencyProfile`: nothing but its status depends on it here."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from ghostfleet_operator.kinds.profile import LatencyProfile, LatencyProfileStatus, parse_profile
from ghostfleet_operator.reconcile.api import OWN, PROFILE, SERVER, Conflict, Key, KubeApi, Object
from ghostfleet_operator.reconcile.mapping import users
from ghostfleet_operator.reconcile.store import Reader, Store
from ghostfleet_operator.status import profile_status
from ghostfleet_simulator.problems import InvalidInput


class ProfileReconciler:
    """Says of profiles whether they can be used and by how many servers they are."""

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        add: Callable[[Key, float], None],
        resync_seconds: float,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self._api = api
        self._store = store
        self._add = add
        self._resync_seconds = resync_seconds
        self._clock = clock
        self._now = now
        self._rng = rng
        self._live_at: dict[tuple[str, str], float] = {}

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One pass; seconds until the next one is due without any event, or None. Raises `KubeError`."""
        live_at = self._live_at.get((namespace, name), 0.0)
        live = self._clock() >= live_at
        before = self._store.get(PROFILE, namespace, name)
        raw = await Reader(self._api, self._store, live=OWN if live else ()).get(PROFILE, namespace, name)
        if raw is None:
            self._live_at.pop((namespace, name), None)
            if before is not None:
                # A deletion that no watch told of.
                for server in users(self._store, namespace, name):
                    self._add(Key(SERVER, namespace, server), 0.0)
            return None
        if live:
            for found in await self._api.list(SERVER, namespace):
                self._store.see(found)
            live_at = self._clock() + self._resync_seconds * self._rng.uniform(0.8, 1.2)
            self._live_at[namespace, name] = live_at
        try:
            await self._report(raw)
        except Conflict:
            self._live_at.pop((namespace, name), None)
            raise
        return max(0.0, live_at - self._clock())

    async def _report(self, raw: Object) -> None:
        meta = raw["metadata"]
        found: LatencyProfile | InvalidInput
        try:
            found = parse_profile(raw)
        except InvalidInput as error:
            found = error
        status = profile_status(
            found,
            generation=meta["generation"],
            used_by=len(users(self._store, meta["namespace"], meta["name"])),
            previous=_status(raw),
            now=self._now(),
        )
        if status == raw.get("status"):
            return
        body: Object = {
            "apiVersion": PROFILE.api_version,
            "kind": PROFILE.name,
            "metadata": {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion")},
            "status": status,
        }
        self._store.see(await self._api.apply_status(body))


def _status(raw: Object) -> LatencyProfileStatus:
    try:
        return LatencyProfileStatus.model_validate(raw.get("status") or {})
    except ValidationError:
        return LatencyProfileStatus()
