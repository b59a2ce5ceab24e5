"""One pass over one `SimulatedModelServer`: read, plan, apply, push, observe, report."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

from ghostfleet_operator.kinds.server import parse_server, replicas_of, rollout_of
from ghostfleet_operator.kinds.server_status import parse_status
from ghostfleet_operator.plan.documents import truth_of
from ghostfleet_operator.plan.kubernetes import admin_secret, children, config_map, endpoints_config_map
from ghostfleet_operator.plan.naming import Child, ChildNames, is_ours
from ghostfleet_operator.plan.options import Options
from ghostfleet_operator.plan.replicas import plan_of
from ghostfleet_operator.plan.waves import Truth, advance, due_in, judged
from ghostfleet_operator.reconcile.acknowledgements import Acknowledgements, Lanes
from ghostfleet_operator.reconcile.api import (
    CHILDREN,
    CONFIG_MAP,
    DEPLOYMENT,
    INFERENCE_POOL,
    POD,
    SERVER,
    Conflict,
    Invalid,
    Key,
    Kind,
    KubeApi,
    Object,
)
from ghostfleet_operator.reconcile.children import Children, Correction
from ghostfleet_operator.reconcile.events import Notice, Recorder, Severity
from ghostfleet_operator.reconcile.inference_pool import InferencePools
from ghostfleet_operator.reconcile.mapping import profile_of
from ghostfleet_operator.reconcile.observer import WorkObserver
from ghostfleet_operator.reconcile.passes import DECISIVE, EVERYTHING, Identity, Memory, Pass, Settings
from ghostfleet_operator.reconcile.pods import Pod, owned_pods
from ghostfleet_operator.reconcile.profiles import Profiles
from ghostfleet_operator.reconcile.report import Reporter
from ghostfleet_operator.reconcile.rescue import rescued
from ghostfleet_operator.reconcile.store import Reader, Store
from ghostfleet_operator.reconcile.token import FIRST_EPOCH, Tokens, epoch_of
from ghostfleet_operator.resolve import Resolved, Unresolved, resolve
from ghostfleet_operator.rollout import Send
from ghostfleet_operator.status import Obstacle
from ghostfleet_simulator.document import Document
from ghostfleet_simulator.problems import InvalidInput

_SPREAD: Final = 0.2
_LEFTOVER_SECONDS: Final = 2.0
_WAVE_SECONDS: Final = 5.0
"""How often the pods of a wave are asked at least."""


class _Unconfirmed(Exception):
    """Something would be given out to pods on the word of watches, which may be behind; ask the API first."""


class ServerReconciler:
    """Makes servers what their specs say, pass by pass."""

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        send: Send,
        settings: Settings,
        recorder: Recorder,
        observer: WorkObserver,
        add: Callable[[Key, float], None],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self._api = api
        self._store = store
        self._lanes = Lanes(send)
        self._settings = settings
        self._recorder = recorder
        self._observer = observer
        self._add = add
        self._clock = clock
        self._now = now
        self._rng = rng
        self._children = Children(api)
        self._profiles = Profiles(settings.no_cluster_profiles)
        self._pools = InferencePools(self._children, settings.no_inference_pools)
        self._reporter = Reporter(api=api, store=store, recorder=recorder, observer=observer, now=now)
        self._memories: dict[tuple[str, str], Memory] = {}

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One pass; seconds until the next one is due without any event, or None. Raises `KubeError`."""
        memory = self._memories.get((namespace, name))
        kinds: Collection[Kind] = EVERYTHING if memory and memory.doubtful else ()
        if not kinds and self._store.get(CONFIG_MAP, namespace, ChildNames.of(name, "").config) is None:
            kinds = DECISIVE  # nothing was given out yet, so something will be
        try:
            return await self._pass(namespace, name, kinds)
        except _Unconfirmed:
            return await self._pass(namespace, name, DECISIVE)

    def close(self) -> None:
        """Break off the calls to pods that are under way."""
        for memory in self._memories.values():
            memory.pods.close()

    async def _pass(self, namespace: str, name: str, kinds: Collection[Kind]) -> float | None:
        """A pass that asks the API itself about `kinds` and takes the store's word for the others."""
        reader = await self._reader(namespace, name, kinds)
        raw = await reader.get(SERVER, namespace, name)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            # The children go by their owner references; there is nothing else to clean up.
            self._forget(namespace, name)
            return None
        uid, memory = raw["metadata"]["uid"], self._memories.get((namespace, name))
        if memory is None or memory.uid != uid:
            self._forget(namespace, name)
            memory = self._memories[namespace, name] = Memory(uid, self._acknowledgements(namespace, name, uid))
        tokens = memory.pods.tokens = Tokens.of(self._settings.keys(), uid, epoch_of(raw))
        thorough = self._clock() >= memory.thorough_at
        names = ChildNames.of(name, uid)
        if not kinds and not thorough and memory.settled is not None:
            pods = owned_pods(self._store.of_server(POD, namespace, name), names.deployment)
            await memory.pods.refresh(pods)
            if self._basis(raw, memory, pods) == memory.settled:
                await self._renew_secret(raw, memory, pods)
                return self._spread(self._settings.observe_seconds)
        run = Pass(raw, reader, memory, kinds, self._now(), parse_status(raw), names, tokens, thorough)
        before = self._known(raw)
        try:
            await self._work(run)
        except (Conflict, Invalid):
            # The store may be behind what the API has: decide again on the API's own word.
            memory.doubtful = True
            raise
        memory.doubtful = False
        # What changed while the pass was under way may have come too late for it.
        quiet = self._known(raw) == before and self._is_at_rest(run)
        memory.settled = self._basis(raw, memory, run.pods) if quiet else None
        now = self._clock()
        if thorough and run.complete:
            memory.thorough_at = now + self._spread(self._settings.resync_seconds)
        delay = self._settings.resync_seconds if run.delay is None else run.delay
        return min(delay, memory.thorough_at - now) if memory.thorough_at > now else delay

    def _known(self, raw: Object) -> tuple[object, ...]:
        """Versions of everything that a pass over a server reads."""
        meta, reference = raw["metadata"], profile_of(raw)
        places = [(SERVER, meta["namespace"], meta["name"])]
        places += [(reference.kind, reference.namespace, reference.name)] if reference else []
        own = [found and found["metadata"]["resourceVersion"] for found in (self._store.get(*p) for p in places)]
        return *own, self._store.versions(meta["namespace"], meta["name"])

    def _basis(self, raw: Object, memory: Memory, pods: list[Pod]) -> tuple[object, ...]:
        """All that a pass over a server at rest goes by."""
        told = [(r.name, r.ready, r.revision, r.hash, r.reason, r.silent) for r in memory.pods.replicas(pods)]
        return *self._known(raw), told, memory.pods.tokens

    def _is_at_rest(self, run: Pass) -> bool:
        """Whether only an event could make the next pass differ from this one, not time."""
        return (
            run.complete
            and not run.kinds
            and bool(run.pods)
            and run.plan is not None
            and run.truth is not None
            and run.truth.canary is None
            and run.delay is not None
            and run.delay >= self._settings.observe_seconds * (1 - _SPREAD)
            and all(pod.ready and pod.address for pod in run.pods)
        )

    async def _reader(self, namespace: str, name: str, kinds: Collection[Kind]) -> Reader:
        """A reader that has the ConfigMap already.

        It is written over the version that is read here, so a spec that is read later is never older than the one that
        the ConfigMap was made from, and no operator undoes what another one did.
        """
        # An InferencePool may not be watched: its CRD can come after the operator.
        reader = Reader(self._api, self._store, live={*kinds, INFERENCE_POOL})
        await reader.get(CONFIG_MAP, namespace, ChildNames.of(name, "").config)
        return reader

    async def _work(self, run: Pass) -> None:
        run.truth = await self._truth(run)
        wave = run.truth.canary.members if run.truth and run.truth.canary else {}
        run.pods = owned_pods(await run.reader.of_server(POD, run.namespace, run.name), run.names.deployment)
        await run.memory.pods.refresh(run.pods, wave, _WAVE_SECONDS)
        # The status counts by it, and a process that has just started may not have heard of it yet.
        await run.reader.get(DEPLOYMENT, run.namespace, run.names.deployment)
        try:
            server = parse_server(run.raw)
            resolved = resolve(server, await self._profiles.of(server, run.reader))
        except InvalidInput as error:
            run.obstacle = Obstacle.invalid(error)
            await self._keep(run)
        except Unresolved as error:
            run.unresolved = error
            await self._keep(run)
        else:
            await self._make(run, resolved)
        await self._reporter.report(run)
        if run.error:
            raise run.error

    async def _make(self, run: Pass, resolved: Resolved) -> None:
        """Plan, apply, push."""
        truth = self._advanced(run, run.truth or await rescued(run), resolved, run.began)
        if not run.kinds and truth != run.truth:
            raise _Unconfirmed
        run.plan = plan_of(resolved, truth)
        options = Options(
            simulator_image=self._settings.simulator_image,
            tokens=run.tokens.accepted,
            image_pull_policy=self._settings.image_pull_policy,
            image_pull_secrets=self._settings.image_pull_secrets,
        )
        wanted = children(run.plan, options)
        wanted.append(endpoints_config_map(run.plan, run.replicas))
        if foreign := await self._children.foreign(wanted, run.reader, run.uid):
            run.obstacle, run.delay = foreign.obstacle, self._retry(foreign.obstacle)
        elif error := await self._apply(run, wanted):
            run.obstacle = Obstacle("WriteFailed", str(error), permanent=False)
        if run.obstacle:
            # A document that could not be given out has no revision yet: nobody may count on it.
            run.truth = await self._truth(run)
            run.plan = run.plan if truth == run.truth else None
            return
        run.truth = truth
        if run.thorough:
            await self._children.prune(CHILDREN, wanted, run.reader, run.plan)
        await self._tell(run.raw, await self._pools.ensure(run, run.plan))
        run.complete = run.error is None
        await self._deliver(run, truth)
        if run.pool_obstacle and self._settings.no_inference_pools is None:
            run.delay = min(math.inf if run.delay is None else run.delay, self._retry(run.pool_obstacle))
        now = self._now()
        if self._advanced(run, truth, resolved, now) != truth:
            run.delay = 0.0
        elif (due := due_in(truth, resolved.server.spec.rollout, now)) is not None:
            run.delay = due if run.delay is None else min(due, run.delay)

    def _advanced(self, run: Pass, truth: Truth | None, resolved: Resolved, now: datetime) -> Truth:
        desired, workload = run.previous.profile and run.previous.profile.desired, self._reporter.workload(run)
        return advance(
            truth,
            resolved,
            run.replicas,
            floor=desired.revision if desired else 0,
            settled=workload is None or workload.settled,
            now=now,
        )

    async def _apply(self, run: Pass, wanted: list[Child]) -> Invalid | None:
        """Bring children to what is wanted; why the API refused one, if it did."""
        blind = run.thorough or self._may_miss_its_secret(run.memory, run.pods)
        try:
            corrections = await self._children.ensure(wanted, run.reader, run.memory.children, blind=blind)
        except Invalid as error:
            run.error = error
            return error
        if blind:
            run.memory.secret_at = self._clock()
        await self._tell(run.raw, corrections)
        return None

    async def _renew_secret(self, raw: Object, memory: Memory, pods: list[Pod]) -> None:
        """Apply the Secret of a server at rest when it is its turn."""
        if not self._may_miss_its_secret(memory, pods):
            return
        meta = raw["metadata"]
        secret = admin_secret(Identity(meta["namespace"], meta["name"], meta["uid"]), memory.pods.tokens.accepted)
        corrections = await self._children.ensure_secret(secret, memory.children)
        memory.secret_at = self._clock()
        await self._tell(raw, corrections)

    async def _tell(self, raw: Object, corrections: list[Correction]) -> None:
        for correction in corrections:
            self._observer.corrected(correction.kind)
            text = f"{correction.kind} {correction.name} was put right: {correction.what}"
            await self._recorder.emit(raw, Notice(Severity.NORMAL, "DriftCorrected", text))

    def _may_miss_its_secret(self, memory: Memory, pods: list[Pod]) -> bool:
        """Whether it is time to apply the Secret, in case that somebody deleted it."""
        waiting = any(not pod.ready for pod in pods)
        seconds = self._settings.secret_seconds(len(self._memories), waiting=waiting)
        return self._clock() - memory.secret_at >= seconds

    async def _keep(self, run: Pass) -> None:
        """Without a plan what runs stays as it is: its pods go on with the last documents, and are told of. How many
        of them there should be is clear all the same, and that a wave which fails goes back."""
        if run.truth is None:
            run.delay = self._spread(self._settings.observe_seconds)
            return
        policy = rollout_of(run.raw)
        truth = judged(run.truth, policy, run.replicas, run.began)
        if not run.kinds and truth != run.truth:
            raise _Unconfirmed
        kept = [admin_secret(run, run.tokens.accepted), endpoints_config_map(run, run.replicas)]
        if run.truth.canary:
            kept.insert(0, config_map(run, truth))
        if not await self._children.foreign(kept, run.reader, run.uid) and not await self._apply(run, kept):
            run.truth = truth
        run.scale = replicas_of(run.raw)
        deployment = await run.reader.get(DEPLOYMENT, run.namespace, run.names.deployment)
        if run.scale is not None and deployment is not None and is_ours(deployment, run.uid):
            await self._children.scale(deployment, run.scale, run.reader)
        run.complete = run.error is None
        await self._deliver(run, run.truth)
        if judged(run.truth, policy, run.replicas, self._now()) != run.truth:
            run.delay = 0.0

    async def _deliver(self, run: Pass, truth: Truth) -> None:
        def due_of(pod: Pod) -> Document | None:
            return truth.due(pod.name, pod.file)

        await run.memory.pods.deliver(run.pods, due_of)
        rounds = self._settings.observe_seconds
        if truth.canary:
            rounds = min(rounds, _WAVE_SECONDS)
        if run.pods:
            run.delay = self._spread(rounds)
            lagging = run.memory.pods.next_due(run.pods, due_of)
            run.delay = run.delay if lagging is None else min(run.delay, lagging)

    async def _truth(self, run: Pass) -> Truth | None:
        """What the ConfigMap holds, if it is ours and can be read."""
        found = await run.reader.get(CONFIG_MAP, run.namespace, run.names.config)
        if found is None or not is_ours(found, run.uid):
            return None
        version, known = found["metadata"]["resourceVersion"], run.memory.truth
        if known is None or known[0] != version:
            known = run.memory.truth = (version, truth_of(found))
        return known[1]

    def _retry(self, obstacle: Obstacle) -> float:
        """When to look again at what is in the way: what is somebody else's is in no watch of ours."""
        leftover = obstacle.reason == "WaitingForDeletion"
        return self._spread(_LEFTOVER_SECONDS if leftover else self._settings.observe_seconds / 2)

    def _acknowledgements(self, namespace: str, name: str, uid: str) -> Acknowledgements:
        return Acknowledgements(
            lanes=self._lanes,
            tokens=Tokens.of(self._settings.keys(), uid, FIRST_EPOCH),
            clock=self._clock,
            observer=self._observer,
            rng=self._rng,
            observe_seconds=self._settings.observe_seconds,
            wake=functools.partial(self._add, Key(SERVER, namespace, name), 0.0),
        )

    def _forget(self, namespace: str, name: str) -> None:
        memory = self._memories.pop((namespace, name), None)
        if memory:
            memory.pods.close()

    def _spread(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
