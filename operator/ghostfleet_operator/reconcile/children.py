"""The objects that make up one server: applied where they differ, never taken from anybody else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ghostfleet_operator.kinds import GROUP
from ghostfleet_operator.plan.naming import Child, Owner, is_ours
from ghostfleet_operator.reconcile.api import CONFIG_MAP, INFERENCE_POOL, SECRET, Kind, KubeApi, Object, kind_of
from ghostfleet_operator.reconcile.compare import APPLIED_ANNOTATION, differences, mark_of, marked, projected
from ghostfleet_operator.reconcile.store import Reader
from ghostfleet_operator.status import Obstacle

_Name = tuple[Kind, str]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Foreign:
    """A child's name that is taken; `leftover` where by an earlier server of the same name, which is being deleted."""

    kind: str
    name: str
    leftover: bool

    @property
    def obstacle(self) -> Obstacle:
        """What it is in the way of a pass."""
        if self.leftover:
            text = f"{self.kind} {self.name!r} of an earlier server of this name is still being deleted"
            return Obstacle("WaitingForDeletion", text, permanent=False)
        return Obstacle.name_conflict(self.kind, self.name)


@dataclass(frozen=True, slots=True)
class Correction:
    """A child that somebody had changed or deleted and that was put right."""

    kind: str
    name: str
    what: str


@dataclass(slots=True)
class ChildMemory:
    """What is remembered of one server's children between passes."""

    applied: set[_Name] = field(default_factory=set)
    settled: dict[_Name, tuple[str | None, Any]] = field(default_factory=dict)
    """How the API wrote down a child that it did not take literally (`0.5` CPU became `500m`), by its mark."""
    secret: str | None = None
    """The mark of the Secret that was applied last."""
    secret_uid: str | None = None
    """Its UID: another one tells that it had been deleted."""


class Children:
    """Applies and prunes the children of servers."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    async def foreign(self, wanted: list[Child], reader: Reader, uid: str) -> Foreign | None:
        """The first child whose name belongs to somebody else. The Secret is not asked for: its name has the UID."""
        for child in wanted:
            kind, meta = kind_of(child), child["metadata"]
            if kind == SECRET:
                continue
            live = await reader.get(kind, meta["namespace"], meta["name"])
            if live is not None and not is_ours(live, uid):
                return Foreign(kind.name, meta["name"], _was_of_a_namesake(live, child))
        return None

    async def ensure(
        self, wanted: list[Child], reader: Reader, memory: ChildMemory, *, blind: bool
    ) -> list[Correction]:
        """Apply the children that differ, in their order; with `blind` the Secret, too, which nobody can compare."""
        corrections = []
        for child in wanted:
            if kind_of(child) == SECRET:
                if blind or memory.secret != mark_of(marked(child)):
                    corrections += await self.ensure_secret(child, memory)
            elif correction := await self._ensure(child, reader, memory):
                corrections.append(correction)
        return corrections

    async def ensure_secret(self, child: Child, memory: ChildMemory) -> list[Correction]:
        """Apply the Secret, unread."""
        secret, before = marked(child), memory.secret_uid
        meta = (await self._api.apply(secret))["metadata"]
        memory.secret, memory.secret_uid = mark_of(secret), meta["uid"]
        return [Correction("Secret", meta["name"], "it was deleted")] if before not in (None, meta["uid"]) else []

    async def scale(self, deployment: Object, replicas: int, reader: Reader) -> None:
        """Set the number of replicas of a Deployment of ours and leave the rest of it."""
        if deployment["spec"].get("replicas") == replicas:
            return
        meta = deployment["metadata"]
        names = {key: meta[key] for key in ("name", "namespace", "uid")}
        # It is not what was applied any more, and the next whole one is no correction.
        notes = {"annotations": {APPLIED_ANNOTATION: "scaled"}}
        child = {"apiVersion": deployment["apiVersion"], "kind": deployment["kind"], "metadata": {**names, **notes}}
        reader.wrote(await self._api.apply_scale({**child, "spec": {"replicas": replicas}}))

    async def prune(self, kinds: Iterable[Kind], wanted: list[Child], reader: Reader, server: Owner) -> None:
        """Delete children of ours that are no longer wanted. What the store has of them may be gone, but is theirs."""
        names = {(kind_of(child), child["metadata"]["name"]) for child in wanted}
        for kind in kinds:
            for obj in reader.known_of_server(kind, server.namespace, server.name):
                meta = obj["metadata"]
                if is_ours(obj, server.uid) and (kind, meta["name"]) not in names and not meta.get("deletionTimestamp"):
                    await self._api.delete(kind, server.namespace, meta["name"], meta["uid"])

    async def _ensure(self, child: Child, reader: Reader, memory: ChildMemory) -> Correction | None:
        kind, meta = kind_of(child), child["metadata"]
        place, wanted = (kind, meta["name"]), marked(child)
        mark = mark_of(wanted)
        live = await reader.get(kind, meta["namespace"], meta["name"])
        found = projected(live, wanted) if live else None
        if live and mark_of(live) == mark and (found == wanted or memory.settled.get(place) == (mark, found)):
            memory.applied.add(place)
            return None
        correction = None
        if live is None and place in memory.applied:
            correction = Correction(kind.name, meta["name"], "it was deleted")
        elif live and mark_of(live) == mark:
            fields = differences(found, wanted)
            more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
            correction = Correction(kind.name, meta["name"], ", ".join(fields[:_SHOWN]) + more + " had been changed")
        answer = await self._api.apply(_guarded(wanted, live) if kind == CONFIG_MAP else wanted)
        took = projected(answer, wanted)
        if took != wanted and kind == INFERENCE_POOL:
            # Labels that somebody added to its selector stay when it is applied, so it is made anew.
            await self._api.delete(kind, meta["namespace"], meta["name"], answer["metadata"]["uid"])
            answer = await self._api.apply(wanted)
            took = projected(answer, wanted)
        reader.wrote(answer)
        memory.applied.add(place)
        if took != wanted:
            memory.settled[place] = (mark, took)
            # What the API never writes down as it was sent is no drift when it is found again after a restart.
            correction = None if live and took == found else correction
        return correction


def _guarded(wanted: Object, live: Object | None) -> Object:
    """The ConfigMap over the version that its revision was counted from: two operators cannot give one number twice."""
    if live is None:
        return wanted
    return {**wanted, "metadata": {**wanted["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}}


def _was_of_a_namesake(live: Object, child: Child) -> bool:
    owner = child["metadata"]["ownerReferences"][0]
    return any(
        reference.get("controller")
        and str(reference.get("apiVersion", "")).startswith(f"{GROUP}/")
        and (reference.get("kind"), reference.get("name")) == (owner["kind"], owner["name"])
        for reference in live["metadata"].get("ownerReferences") or ()
    )
