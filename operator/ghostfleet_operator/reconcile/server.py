"""One pass over one `SimulatedModelServer`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

import httpx

from ghostfleet_operator.kinds.profile import ProfileResource, parse_profile
from ghostfleet_operator.kinds.server import ProfileKind, ServerStatus, SimulatedModelServer, parse_server, parse_status
from ghostfleet_operator.plan.kubernetes import (
    DOCUMENT_KEY,
    Child,
    ChildNames,
    Options,
    children,
    endpoints_config_map,
    is_ours,
)
from ghostfleet_operator.plan.replicas import ServerPlan, plan
from ghostfleet_operator.reconcile.api import (
    CHILDREN,
    CONFIG_MAP,
    DEPLOYMENT,
    POD,
    PROFILES,
    SERVER,
    Conflict,
    Invalid,
    Kind,
    KubeApi,
    KubeError,
    Object,
)
from ghostfleet_operator.reconcile.children import ChildMemory, Children, Foreign
from ghostfleet_operator.reconcile.events import Notice, Recorder, Severity, transitions
from ghostfleet_operator.reconcile.observer import WorkObserver
from ghostfleet_operator.reconcile.pods import Acknowledgements, Pod, owned_pods
from ghostfleet_operator.reconcile.store import Reader, Store
from ghostfleet_operator.reconcile.token import admin_token
from ghostfleet_operator.resolve import FindProfile, Reason, Resolved, Unresolved, resolve
from ghostfleet_operator.status import Observation, Obstacle, Workload, server_status
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.problems import InvalidInput

_SPREAD: Final = 0.2
_BLOCKED_SECONDS: Final = 15.0
"""A name in use by somebody else is in no watch of ours; it is looked at this often."""
_LEFTOVER_SECONDS: Final = 2.0
_LAGGING_SECONDS: Final = 1.0
"""First wait before pods that did not acknowledge are pushed to again; doubled up to the usual round."""


_ALL: Final = frozenset({SERVER, *PROFILES.values(), POD, *CHILDREN})
_DECISIVE: Final = frozenset({SERVER, *PROFILES.values(), CONFIG_MAP})


class _Unconfirmed(Exception):
    """A new revision would be given out on the word of watches, which may be behind; ask the API first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a reconciler is told once."""

    simulator_image: str
    key: bytes = field(repr=False)
    """What admin tokens are derived from."""
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    observe_seconds: float = 30.0
    """How often pods are asked what they run."""
    resync_seconds: float = 300.0
    """How often everything is read from the API itself."""
    no_cluster_profiles: str | None = None
    """Why no ClusterLatencyProfile can be used; None where they can."""


@dataclass(slots=True)
class _Memory:
    """What is kept of a server between passes; all of it can be lost at any time."""

    uid: str
    pods: Acknowledgements
    live_at: float = 0.0
    children: ChildMemory = field(default_factory=ChildMemory)
    floor: int = 0
    """Revision that the next one must exceed, where pods hold other documents under the same number."""
    lagging: int = 0
    """Passes in a row that left a Ready pod behind."""


@dataclass(slots=True)
class _Pass:
    """One pass under way, and what it learns."""

    raw: Object
    reader: Reader
    memory: _Memory
    kinds: Collection[Kind]
    began: datetime
    previous: ServerStatus
    names: ChildNames
    pods: list[Pod] = field(default_factory=list)
    plan: ServerPlan | None = None
    unresolved: Unresolved | None = None
    obstacle: Obstacle | None = None
    error: KubeError | None = None
    delay: float | None = None

    @property
    def live(self) -> bool:
        """Whether everything is read from the API itself."""
        return self.kinds is _ALL

    @property
    def namespace(self) -> str:
        """Namespace of the server."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Name of the server."""
        return str(self.raw["metadata"]["name"])

    @property
    def uid(self) -> str:
        """UID of the server."""
        return self.memory.uid


class ServerReconciler:
    """Makes servers what their specs say, pass by pass."""

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        client: httpx.AsyncClient,
        settings: Settings,
        recorder: Recorder,
        observer: WorkObserver,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self._api = api
        self._store = store
        self._client = client
        self._settings = settings
        self._recorder = recorder
        self._observer = observer
        self._clock = clock
        self._now = now
        self._rng = rng
        self._children = Children(api)
        self._memories: dict[tuple[str, str], _Memory] = {}

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One pass; seconds until the next one is due without any event, or None. Raises `KubeError`."""
        memory = self._memories.get((namespace, name))
        live = memory is None or self._clock() >= memory.live_at
        try:
            return await self._pass(namespace, name, _ALL if live else ())
        except _Unconfirmed:
            return await self._pass(namespace, name, _DECISIVE)

    async def _pass(self, namespace: str, name: str, kinds: Collection[Kind]) -> float | None:
        """A pass that asks the API itself about `kinds` and takes the store's word for the others."""
        reader = await self._reader(namespace, name, kinds)
        raw = await reader.get(SERVER, namespace, name)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            # The children go by their owner references; there is nothing else to clean up.
            self._memories.pop((namespace, name), None)
            return None
        uid, memory = raw["metadata"]["uid"], self._memories.get((namespace, name))
        if memory is None or memory.uid != uid:
            memory = self._memories[namespace, name] = self._memory(uid)
            if kinds is not _ALL:
                return await self._pass(namespace, name, _ALL)
        names = ChildNames.of(name, uid)
        run = _Pass(raw, reader, memory, kinds, self._now(), parse_status(raw), names)
        try:
            await self._work(run)
        except (Conflict, Invalid):
            # The store may be behind what the API has: decide again on the API's own word.
            memory.live_at = 0.0
            raise
        if run.live:
            memory.live_at = self._clock() + self._spread(self._settings.resync_seconds)
        return min(run.delay or self._settings.resync_seconds, max(0.0, memory.live_at - self._clock()))

    async def _reader(self, namespace: str, name: str, kinds: Collection[Kind]) -> Reader:
        """A reader that has the ConfigMap already.

        It is written over the version that is read here, so a spec that is read later is never older than the one that
        the ConfigMap was made from, and no operator undoes what another one did.
        """
        reader = Reader(self._api, self._store, live=kinds)
        await reader.get(CONFIG_MAP, namespace, ChildNames.of(name, "").config)
        return reader

    async def _work(self, run: _Pass) -> None:
        run.pods = owned_pods(await run.reader.of_server(POD, run.namespace, run.name), run.names.deployment)
        await run.memory.pods.refresh(run.pods)
        current = await self._current(run)
        # The status counts by it, and a process that has just started may not have heard of it yet.
        await run.reader.get(DEPLOYMENT, run.namespace, run.names.deployment)
        try:
            server = parse_server(run.raw)
            resolved = resolve(server, await self._profiles(run, server))
        except InvalidInput as error:
            run.obstacle = Obstacle.invalid(error)
            await self._keep(run, current)
        except Unresolved as error:
            run.unresolved = error
            await self._keep(run, current)
        else:
            await self._make(run, resolved, current)
        await self._report(run)
        if run.error:
            raise run.error

    async def _make(self, run: _Pass, resolved: Resolved, current: Document | None) -> None:
        """Plan, apply, push."""
        memory, desired = run.memory, run.previous.profile.desired if run.previous.profile else None
        floor = max(memory.floor, memory.pods.highest_revision(run.pods), desired.revision if desired else 0)
        run.plan = plan(resolved, current, floor)
        if not run.kinds and (current is None or current.revision != run.plan.revision):
            raise _Unconfirmed
        options = Options(
            simulator_image=self._settings.simulator_image,
            token=admin_token(self._settings.key, run.uid),
            image_pull_policy=self._settings.image_pull_policy,
            image_pull_secrets=self._settings.image_pull_secrets,
        )
        wanted = children(run.plan, options)
        wanted.append(endpoints_config_map(run.plan, memory.pods.replicas(run.pods)))
        if foreign := await self._children.foreign(wanted, run.reader, memory.uid):
            run.obstacle, run.delay = self._blocked(foreign)
            await self._unplan(run)
            return
        if error := await self._apply(run, wanted):
            run.obstacle = Obstacle("WriteFailed", str(error), permanent=False)
            await self._unplan(run)
            return
        if run.live:
            await self._children.prune(wanted, run.reader, run.namespace, run.name, memory.uid)
        await self._deliver(run, run.plan.document)

    async def _apply(self, run: _Pass, wanted: list[Child]) -> Invalid | None:
        """Bring children to what is wanted; why the API refused one, if it did."""
        try:
            corrections = await self._children.ensure(wanted, run.reader, run.memory.children, live=run.live)
        except Invalid as error:
            run.error = error
            return error
        for correction in corrections:
            self._observer.corrected(correction.kind)
            text = f"{correction.kind} {correction.name} was put right: {correction.what}"
            await self._recorder.emit(run.raw, Notice(Severity.NORMAL, "DriftCorrected", text))
        return None

    async def _unplan(self, run: _Pass) -> None:
        """Drop a plan whose document could not be given out: its revision was never used, so nobody may count on it."""
        if run.plan and run.plan.document != await self._current(run):
            run.plan = None

    async def _keep(self, run: _Pass, current: Document | None) -> None:
        """Without a plan what runs stays as it is: its pods go on with the last document, and are told of."""
        if current is None:
            run.delay = self._spread(self._settings.observe_seconds)
            return
        endpoints = [endpoints_config_map(run, run.memory.pods.replicas(run.pods))]
        if not await self._children.foreign(endpoints, run.reader, run.uid):
            await self._apply(run, endpoints)
        await self._deliver(run, current)

    async def _deliver(self, run: _Pass, document: Document) -> None:
        memory, pods = run.memory, run.pods
        await memory.pods.deliver(pods, document)
        memory.floor = 0
        if memory.pods.refused_same_revision(pods, document):
            memory.floor = (document.revision or 0) + 1
        rounds = self._settings.observe_seconds
        if any(pod.reachable and not memory.pods.runs(pod, document) for pod in pods):
            rounds = min(rounds, _LAGGING_SECONDS * 2.0 ** min(memory.lagging, 10))
            memory.lagging += 1
        else:
            memory.lagging = 0
        run.delay = self._spread(rounds) if pods else None

    async def _current(self, run: _Pass) -> Document | None:
        """The document that was last given out, if the ConfigMap is ours and still holds one."""
        found = await run.reader.get(CONFIG_MAP, run.namespace, run.names.config)
        if found is None or not is_ours(found, run.uid):
            return None
        try:
            return Document.parse(json.loads((found.get("data") or {}).get(DOCUMENT_KEY, "")))
        except (InvalidInput, ValueError):
            return None

    async def _profiles(self, run: _Pass, server: SimulatedModelServer) -> FindProfile:
        reference, reason = server.spec.profile_ref, self._settings.no_cluster_profiles
        if reference is None:
            return lambda _kind, _name: None
        if reason and reference.kind is ProfileKind.CLUSTER_LATENCY_PROFILE:
            raise Unresolved(Reason.NOT_ENABLED, reason, "spec.profileRef.kind")
        kind = PROFILES[reference.kind.value]
        found = await run.reader.get(kind, run.namespace if kind.namespaced else "", reference.name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return lambda _kind, _name: None
        profile: ProfileResource | InvalidInput
        try:
            profile = parse_profile(found)
        except InvalidInput as error:
            profile = error
        return lambda _kind, _name: profile

    def _blocked(self, foreign: Foreign) -> tuple[Obstacle, float]:
        if foreign.leftover:
            text = f"{foreign.kind} {foreign.name!r} of an earlier server of this name is still being deleted"
            return Obstacle("WaitingForDeletion", text, permanent=False), self._spread(_LEFTOVER_SECONDS)
        return Obstacle.name_conflict(foreign.kind, foreign.name), self._spread(_BLOCKED_SECONDS)

    async def _report(self, run: _Pass) -> None:
        """Write the status where it changed, and tell what deserves an Event."""
        deployment = self._store.get(DEPLOYMENT, run.namespace, run.names.deployment)
        ours = deployment is not None and is_ours(deployment, run.uid)
        status = server_status(
            Observation(
                namespace=run.namespace,
                name=run.name,
                generation=run.raw["metadata"]["generation"],
                now=self._now(),
                previous=run.previous,
                began=run.began,
                plan=run.plan,
                unresolved=run.unresolved,
                obstacle=run.obstacle,
                workload=Workload.of(deployment) if deployment and ours else None,
                replicas=run.memory.pods.replicas(run.pods),
            )
        )
        if status == run.raw.get("status"):
            return
        await self._write_status(run, status)
        after = parse_status({"status": status})
        for notice in transitions(run.previous, after):
            await self._recorder.emit(run.raw, notice)
        self._observe_sync(run.previous, after)

    async def _write_status(self, run: _Pass, status: dict[str, Any]) -> None:
        body = {
            "apiVersion": SERVER.api_version,
            "kind": SERVER.name,
            "metadata": {
                "name": run.name,
                "namespace": run.namespace,
                "uid": run.uid,
                # A status made from an older spec or status would only have to be mended.
                "resourceVersion": run.raw["metadata"]["resourceVersion"],
            },
            "status": status,
        }
        try:
            self._store.see(await self._api.apply_status(body))
        except KubeError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            self._store.forget(SERVER, run.namespace, run.name, run.uid)

    def _observe_sync(self, before: ServerStatus, after: ServerStatus) -> None:
        synced, last = after.profile, before.profile
        if synced and synced.last_sync_duration and synced.last_sync_time != (last.last_sync_time if last else None):
            self._observer.synced(float(synced.last_sync_duration.removesuffix("s")))

    def _memory(self, uid: str) -> _Memory:
        acknowledgements = Acknowledgements(
            client=self._client,
            token=admin_token(self._settings.key, uid),
            clock=self._clock,
            observer=self._observer,
            fresh_seconds=self._settings.observe_seconds * (1 - _SPREAD) * 0.9,
        )
        return _Memory(uid, acknowledgements)

    def _spread(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
