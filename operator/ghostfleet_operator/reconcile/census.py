"""Everything that concerns the operator, read from the API whole: what watches lost is found by this.

A watch may lose, delay or repeat events, begin anew after a gap, or go silent. So now and then every kind is listed, in
pages and by label, and each difference goes the way that its event would have gone. Passes can then take the store's
word for what exists, and no server or profile has to be asked for by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ghostfleet_operator.plan.naming import SERVER_LABEL
from ghostfleet_operator.reconcile.api import CHILDREN, OWN, POD, Key, Kind, KubeApi, namespace_of
from ghostfleet_operator.reconcile.mapping import Mapper


class Census:
    """Compares what is known with what there is: `own` of our kinds, their children and the pods.

    `namespaces` are those that the operator works in; none means all of them.
    """

    def __init__(self, api: KubeApi, mapper: Mapper, own: Collection[Kind], namespaces: Sequence[str] = ()) -> None:
        self._api = api
        self._mapper = mapper
        self._kinds = (*own, *CHILDREN, POD)
        self._namespaces: Sequence[str | None] = namespaces or (None,)

    async def take(self) -> None:
        """List everything once. Raises `KubeError`; what was seen until then counts."""
        for kind in self._kinds:
            for namespace in self._namespaces if kind.namespaced else (None,):
                await self._compare(kind, namespace)

    async def _compare(self, kind: Kind, namespace: str | None) -> None:
        believed = self._mapper.believed(kind, namespace)
        found = await self._api.list(kind, namespace, "" if kind in OWN else SERVER_LABEL)
        for obj in found:
            self._mapper.event(obj, deleted=False)
        here = {Key(kind, namespace_of(obj), obj["metadata"]["name"]) for obj in found}
        for key, version in believed.items():
            if key not in here:
                self._mapper.gone(key, version)
