"""One pass over one profile, of a namespace or of the cluster: nothing but its status depends on it here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from ghostfleet_operator.kinds.profile import LatencyProfileStatus, ProfileResource, parse_profile
from ghostfleet_operator.reconcile.api import Conflict, Key, Kind, KubeApi, Object, namespace_of
from ghostfleet_operator.reconcile.mapping import users
from ghostfleet_operator.reconcile.store import Reader, Store
from ghostfleet_operator.status import profile_status
from ghostfleet_simulator.problems import InvalidInput


class ProfileReconciler:
    """Says of the profiles of a kind whether they can be used and by how many servers they are."""

    def __init__(
        self,
        kind: Kind,
        *,
        api: KubeApi,
        store: Store,
        add: Callable[[Key, float], None],
        now: Callable[[], datetime],
    ) -> None:
        self._kind = kind
        self._api = api
        self._store = store
        self._add = add
        self._now = now
        self._doubtful: set[Key] = set()

    async def reconcile(self, namespace: str, name: str) -> None:
        """One pass; whatever makes another one necessary is an event. Raises `KubeError`."""
        key = Key(self._kind, namespace, name)
        before = self._store.get(self._kind, namespace, name)
        live = (self._kind,) if key in self._doubtful else ()
        raw = await Reader(self._api, self._store, live=live).get(self._kind, namespace, name)
        self._doubtful.discard(key)
        if raw is None:
            if before is not None:
                # A deletion that no watch told of.
                for server in users(self._store, key):
                    self._add(server, 0.0)
            return
        try:
            await self._report(raw)
        except Conflict:
            # The store may be behind what the API has.
            self._doubtful.add(key)
            raise

    async def _report(self, raw: Object) -> None:
        meta = raw["metadata"]
        found: ProfileResource | InvalidInput
        try:
            found = parse_profile(raw)
        except InvalidInput as error:
            found = error
        status = profile_status(
            found,
            generation=meta["generation"],
            used_by=len(users(self._store, Key(self._kind, namespace_of(raw), meta["name"]))),
            previous=_status(raw),
            now=self._now(),
        )
        if status == raw.get("status"):
            return
        body: Object = {
            "apiVersion": self._kind.api_version,
            "kind": self._kind.name,
            "metadata": {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in meta},
            "status": status,
        }
        self._store.see(await self._api.apply_status(body))


def _status(raw: Object) -> LatencyProfileStatus:
    try:
        return LatencyProfileStatus.model_validate(raw.get("status") or {})
    except ValidationError:
        return LatencyProfileStatus()
