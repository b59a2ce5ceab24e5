"""What is known of the cluster without asking: fed by watch events, by live reads and by the answers to writes.

Watches may miss a deletion, so nothing is ever done because of what is *not* in here; see `Reader`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from ghostfleet_operator.plan.naming import SERVER_LABEL, selector
from ghostfleet_operator.reconcile.api import OWN, Kind, KubeApi, Object, essential, kind_of, namespace_of

Place = tuple[Kind, str, str]


class Store:
    """The newest version seen of each object, found by name or by the server it belongs to."""

    def __init__(self) -> None:
        self._objects: dict[Place, Object] = {}
        self._of_server: dict[tuple[str, str], set[Place]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def see(self, obj: Object) -> bool:
        """Take note of an object; False where this version or a newer one is known already."""
        kind, meta = kind_of(obj), obj["metadata"]
        place = (kind, namespace_of(obj), meta["name"])
        known = self._objects.get(place)
        if known and not _newer(meta, known["metadata"]):
            return False
        self.forget(*place)
        self._objects[place] = essential(kind, obj)
        if owner := server_of(obj):
            self._of_server.setdefault((meta["namespace"], owner), set()).add(place)
        return True

    def forget(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        """Drop an object, if it still is the one with `uid`."""
        place = (kind, namespace, name)
        known = self._objects.get(place)
        if known is None or (uid is not None and known["metadata"]["uid"] != uid):
            return
        del self._objects[place]
        if owner := server_of(known):
            places = self._of_server[namespace, owner]
            places.discard(place)
            if not places:
                del self._of_server[namespace, owner]

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The newest version seen."""
        return self._objects.get((kind, namespace, name))

    def versions(self, namespace: str, server: str) -> dict[Place, str]:
        """Versions of all objects that carry the label of a server."""
        places = self._of_server.get((namespace, server), ())
        return {place: self._objects[place]["metadata"]["resourceVersion"] for place in places}

    def of_server(self, kind: Kind, namespace: str, server: str) -> list[Object]:
        """Objects of a kind that carry the label of a server, sorted by name."""
        places = self._of_server.get((namespace, server), ())
        return [self._objects[p] for p in sorted(places, key=lambda place: place[2]) if p[0] == kind]

    def all(self, kind: Kind, namespace: str | None = None) -> Iterator[Object]:
        """Objects of a kind, in one namespace or in all."""
        return (o for (k, n, _), o in list(self._objects.items()) if k == kind and namespace in (None, n))


def server_of(obj: Object) -> str | None:
    """Name of the server that an object belongs to by its label; None for our own kinds."""
    return (obj["metadata"].get("labels") or {}).get(SERVER_LABEL) if kind_of(obj) not in OWN else None


def _newer(meta: dict[str, Any], known: dict[str, Any]) -> bool:
    """Resource versions of one kind are ordered numbers; another UID is another object, and news."""
    if meta.get("uid") != known.get("uid"):
        return True
    one, other = str(meta.get("resourceVersion")), str(known.get("resourceVersion"))
    return int(one) > int(other) if one.isdigit() and other.isdigit() else one != other


class Reader:
    """Reads for one pass: from the store or, for the kinds in `live`, from the API, which also mends the store.

    What was read once stays for the pass, whatever watches bring meanwhile: a decision and the version that it was
    made on belong together.
    """

    def __init__(self, api: KubeApi, store: Store, *, live: Collection[Kind]) -> None:
        self._api = api
        self._store = store
        self._live = live
        self._read: dict[Place, Object | None] = {}

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object. That it is absent is always asked of the API."""
        place = (kind, namespace, name)
        if place not in self._read:
            known = None if kind in self._live else self._store.get(*place)
            self._read[place] = known or await self._fresh(place)
        return self._read[place]

    def wrote(self, answer: Object) -> None:
        """Take note of what the API answered to a write of this pass."""
        meta = answer["metadata"]
        self._store.see(answer)
        self._read[kind_of(answer), namespace_of(answer), meta["name"]] = answer

    async def _fresh(self, place: Place) -> Object | None:
        found = await self._api.get(*place)
        if found is None:
            self._store.forget(*place)
            return None
        self._store.see(found)
        return self._store.get(*place)

    async def of_server(self, kind: Kind, namespace: str, server: str) -> list[Object]:
        """Objects of a kind that carry the label of a server, sorted by name."""
        if kind in self._live:
            found = await self._api.list(kind, namespace, selector(server))
            here = {obj["metadata"]["name"] for obj in found}
            for known in self._store.of_server(kind, namespace, server):
                if known["metadata"]["name"] not in here:
                    self._store.forget(kind, namespace, known["metadata"]["name"], known["metadata"]["uid"])
            for obj in found:
                self._store.see(obj)
        return self.known_of_server(kind, namespace, server)

    def known_of_server(self, kind: Kind, namespace: str, server: str) -> list[Object]:
        """The same without asking anybody."""
        return self._store.of_server(kind, namespace, server)
