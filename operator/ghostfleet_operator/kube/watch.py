"""The watches, by kopf: `on.event` handlers that only note what came and queue who may have to act on it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import kopf

from ghostfleet_operator.kinds import GROUP
from ghostfleet_operator.plan.naming import SERVER_LABEL
from ghostfleet_operator.reconcile.api import CHILDREN, INFERENCE_POOL, POD, Kind
from ghostfleet_operator.reconcile.mapping import Mapper

OWNED: Final = SERVER_LABEL
"""Label selector of everything the operator makes, pods included; users cannot set labels under ghostfleet.dev/."""

_PAGE: Final = 500
_WATCH_SECONDS: Final = 540


def install(registry: kopf.OperatorRegistry, mapper: Mapper, kinds: Iterable[Kind]) -> None:
    """Watch our kinds and the kinds of children that may be in use, and in any case the other children and the pods."""
    for kind in (*kinds, *CHILDREN, POD):
        kopf.on.event(group=kind.group, version=kind.version, plural=kind.plural, id=kind.plural, registry=registry)(
            _handler(kind, mapper)
        )


def configure(settings: kopf.OperatorSettings, silent_seconds: float) -> None:
    """kopf without what this operator does not use: no peering, no Events, no finalizers, nothing kept on objects."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    # The CRDs are waited for before kopf starts, and namespaces are given by name: nothing is scanned later, so the
    # operator needs no right to list CRDs or namespaces.
    settings.scanning.disabled = True
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{GROUP}")
    settings.persistence.diffbase_storage = _Nothing()
    settings.watching.chunk_size = _PAGE
    settings.watching.connect_timeout = 10
    # The API server ends a watch first, with a bookmark to go on from; what it does not end is ended here.
    settings.watching.server_timeout = _WATCH_SECONDS
    settings.watching.client_timeout = _WATCH_SECONDS + 60
    settings.watching.inactivity_timeout = silent_seconds
    settings.networking.request_timeout = 60
    settings.process.ultimate_exiting_timeout = 30
    for kind in (*CHILDREN, INFERENCE_POOL, POD):
        settings.watching.label_selectors[kopf_selector(kind)] = OWNED


class _Nothing(kopf.DiffBaseStorage):
    """No memory of what objects were: nothing here asks for differences, and to copy every object takes long."""

    def build(self, **_: Any) -> Any:
        """Nothing to remember."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Nothing was remembered."""
        return None

    def store(self, **_: Any) -> None:
        """Remember nothing."""


def kopf_selector(kind: Kind) -> Callable[[Any], bool]:
    """Matches one kind among the resources that kopf knows."""

    def matches(resource: Any) -> bool:
        return bool((resource.group, resource.plural) == (kind.group, kind.plural))

    return matches


def _handler(kind: Kind, mapper: Mapper) -> Callable[..., Coroutine[Any, Any, None]]:
    async def handle(event: Any, **_: Any) -> None:
        obj = {**event["object"], "apiVersion": kind.api_version, "kind": kind.name}
        mapper.event(obj, deleted=event["type"] == "DELETED")

    return handle
