"""The operator process: what is put together, in which order it starts and stops."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import signal
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final

import kopf

import ghostfleet_simulator
from ghostfleet_operator.kinds import GROUP, VERSION
from ghostfleet_operator.kube import watch
from ghostfleet_operator.kube.client import KubeClient
from ghostfleet_operator.kube.election import Elector
from ghostfleet_operator.kube.health import HealthServer
from ghostfleet_operator.kube.login import Login
from ghostfleet_operator.kube.metrics import OperatorMetrics
from ghostfleet_operator.kube.options import OperatorOptions
from ghostfleet_operator.kube.pod_client import PodClient
from ghostfleet_operator.kube.state import StateCollector
from ghostfleet_operator.kube.streams import Streams
from ghostfleet_operator.plan.naming import FIELD_MANAGER
from ghostfleet_operator.reconcile.api import (
    CLUSTER_PROFILE,
    INFERENCE_POOL,
    PROFILE,
    SERVER,
    Conflict,
    Key,
    Kind,
    KubeError,
    Retry,
)
from ghostfleet_operator.reconcile.census import Census
from ghostfleet_operator.reconcile.events import Recorder
from ghostfleet_operator.reconcile.mapping import Mapper
from ghostfleet_operator.reconcile.passes import Settings
from ghostfleet_operator.reconcile.profile import ProfileReconciler
from ghostfleet_operator.reconcile.server import ServerReconciler
from ghostfleet_operator.reconcile.store import Store
from ghostfleet_operator.reconcile.token import Keys
from ghostfleet_operator.workqueue import Backoff, WorkQueue, WriteBudget

_CRD_WAIT_SECONDS: Final = 2.0
_NO_INFERENCE_POOLS: Final = "the operator was not told (--inference-pools) to make InferencePools"
_LONGEST_PAUSE: Final = 30.0
_STOP_SECONDS: Final = 15.0
_STUCK_SECONDS: Final = 300.0

log = logging.getLogger("ghostfleet.operator")


class OperatorProcess:
    """One operator in one event loop; `run` it once."""

    def __init__(self, options: OperatorOptions, keys: Keys) -> None:
        self._options = options
        self._login = Login(options.kubeconfig, options.context)
        self._rng = random.Random()
        self._backoff = Backoff(longest=60.0)
        self._queue: WorkQueue[Key] = WorkQueue(clock=time.monotonic, rng=self._rng)
        self._budget = WriteBudget(rate=options.writes_per_second, burst=options.write_burst, clock=time.monotonic)
        self._api = KubeClient(self._login, self._budget.take, self._write_seconds)
        # Connections of its own, so that no crowd of other requests keeps the leader from renewing its lease.
        self._leases = KubeClient(self._login, self._budget.take, user_agent=f"{FIELD_MANAGER}-leader-election")
        self._elector = self._election() if options.leader_elect else None
        self._streams = Streams(time.monotonic)
        self._pods = PodClient()
        self._metrics = OperatorMetrics(ghostfleet_simulator.__version__)
        self._health = HealthServer(self._metrics, self._unhealthy, self._unready)
        self._store = Store()
        self._own = (SERVER, PROFILE, *((CLUSTER_PROFILE,) if options.cluster_profiles else ()))
        self._mapper = Mapper(self._store, self._queue.add, self._own)
        self._servers = self._server_reconciler(keys)
        self._census = Census(self._api, self._mapper, self._own, options.namespaces)
        self._passes: dict[Kind, Callable[[str, str], Awaitable[float | None]]] = {
            kind: (self._servers if kind == SERVER else self._profiles(kind)).reconcile for kind in self._own
        }
        self._under_way: dict[Key, float] = {}
        self._metrics.watch(
            StateCollector(
                queue=self._queue,
                client=self._api,
                streams=self._streams,
                store=self._store,
                passes=lambda: [time.monotonic() - start for start in self._under_way.values()],
                ready=lambda: self._unready() is None,
                leader=self._leads,
            )
        )
        self._found_kinds = False
        self._workers: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> int:
        """Work until a signal comes; the exit code. Raises `KubeError` where there are no credentials at all."""
        await self._login.configuration()
        await self._health.start(self._options.health_host, self._options.health_port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)  # until kopf takes them over
        try:
            await self._until_stopped(self._get_ready())
            if not self._stop.is_set():
                await self._lead()
        except Exception as error:  # noqa: BLE001 - whatever ends kopf ends the process, and Kubernetes starts the next
            self._failure = self._failure or error
        finally:
            self._servers.close()
            if self._workers:
                self._workers.cancel()
                await asyncio.wait([self._workers])
            if self._elector:
                # Nothing is written any more, so the next one may begin.
                await self._elector.release()
            await self._health.stop()
            await self._pods.close()
            await self._leases.close()
            await self._api.close()
        if self._failure:
            log.error(
                "cannot go on: %r", self._failure, exc_info=self._failure if log.isEnabledFor(logging.DEBUG) else None
            )
            return 1
        return 0

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """`work`, unless a signal to stop comes first."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
        if task.done():
            await task

    async def _get_ready(self) -> None:
        await self._wait_for_kinds()
        self._found_kinds = True
        if self._elector:
            await self._elector.acquire()

    async def _lead(self) -> None:
        """Run kopf and with it everything else, for as long as the lease is ours."""
        holding = asyncio.create_task(self._hold(self._elector)) if self._elector else None
        counting = asyncio.create_task(self._count_on(), name="census")
        counting.add_done_callback(self._ended)
        try:
            # Passes begin with everything known, so that they need not ask for what exists.
            await self._until_stopped(self._count())
            if not self._stop.is_set():
                await self._watch()
        finally:
            counting.cancel()
            if holding:
                holding.cancel()

    async def _watch(self) -> None:
        registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
        watch.configure(settings, self._options.watch_silent_seconds)
        watch.install(registry, self._mapper, (*self._own, *await self._pools()))
        kopf.on.startup(registry=registry, id="start")(self._started)
        kopf.on.cleanup(registry=registry, id="stop")(self._stopped)
        kopf.on.login(registry=registry, id="login")(self._logged_in)
        await kopf.operator(
            registry=registry,
            settings=settings,
            namespaces=self._options.namespaces,
            clusterwide=not self._options.namespaces,
            stop_flag=self._stop,
        )

    async def _count(self) -> None:
        """One census, tried until it succeeds."""
        failures = 0
        while True:
            try:
                return await self._census.take()
            except KubeError as error:
                failures += 1
                wait = self._backoff.delay(failures, self._rng)
                log.warning("%s; listing everything again in %.1f s", error, wait)
                await asyncio.sleep(wait)

    async def _count_on(self) -> None:
        while True:
            await asyncio.sleep(self._options.resync_seconds * self._rng.uniform(0.8, 1.2))
            await self._count()

    async def _hold(self, elector: Elector) -> None:
        try:
            self._failure = KubeError(await elector.hold())
        except Exception as error:  # noqa: BLE001 - a leader that does not renew its lease must not linger
            self._failure = error
        self._stop.set()

    def _election(self) -> Elector:
        options = self._options
        return Elector(
            self._leases,
            namespace=options.leader_elect_resource_namespace or "",
            name=options.leader_elect_resource_name,
            identity=f"{socket.gethostname()}_{uuid.uuid4()}",
            times=options.lease_times,
            clock=time.monotonic,
            now=_now,
            rng=self._rng,
        )

    def _write_seconds(self) -> float:
        return self._elector.write_seconds() if self._elector else math.inf

    def _leads(self) -> bool:
        return self._elector.leading if self._elector else self._workers is not None

    def _server_reconciler(self, keys: Keys) -> ServerReconciler:
        options = self._options
        settings = Settings(
            simulator_image=options.simulator_image,
            keys=keys,
            image_pull_policy=options.image_pull_policy,
            image_pull_secrets=options.image_pull_secrets,
            observe_seconds=options.observe_seconds,
            resync_seconds=options.resync_seconds,
            no_inference_pools=None if options.inference_pools else _NO_INFERENCE_POOLS,
            no_cluster_profiles=None if options.cluster_profiles else _no_cluster_profiles(bool(options.namespaces)),
        )
        return ServerReconciler(
            api=self._api,
            store=self._store,
            send=self._pods.send,
            settings=settings,
            recorder=Recorder(self._api, _now, socket.gethostname()),
            observer=self._metrics,
            add=self._queue.add,
            clock=time.monotonic,
            now=_now,
            rng=self._rng,
        )

    def _profiles(self, kind: Kind) -> ProfileReconciler:
        return ProfileReconciler(
            kind,
            api=self._api,
            store=self._store,
            add=self._queue.add,
            now=_now,
        )

    async def _logged_in(self, **_: Any) -> kopf.AiohttpSession:
        try:
            return self._streams.session(await self._login.for_kopf())
        except KubeError as error:
            raise kopf.PermanentError(str(error)) from None

    async def _started(self, **_: Any) -> None:
        where = ", ".join(self._options.namespaces) or "all namespaces"
        log.info("version %s works in %s", ghostfleet_simulator.__version__, where)
        self._workers = asyncio.create_task(self._queue.run(self._work, self._options.workers), name="work queue")
        self._workers.add_done_callback(self._ended)

    async def _stopped(self, **_: Any) -> None:
        self._queue.close()
        if self._workers:
            # Passes under way are completed, unless what they write would be refused anyhow.
            await asyncio.wait([self._workers], timeout=0 if self._failure else _STOP_SECONDS)
        # kopf waits five seconds for tasks that are left: calls to pods that do not answer, and its own that waits for
        # this flag.
        self._servers.close()
        self._stop.set()
        log.info("stopped")

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Only a bug ends the workers or the census before they are told to; a process without them must not linger.
        if not task.cancelled() and task.exception():
            self._failure = task.exception()
            self._stop.set()

    async def _pools(self) -> list[Kind]:
        """InferencePool where it is used and there is one: kopf cannot wait for a CRD. Raises `KubeError`."""
        if not self._options.inference_pools:
            return []
        if await self._api.serves(INFERENCE_POOL):
            return [INFERENCE_POOL]
        log.warning("there is no CRD of %s: one that comes later is used, but not watched", INFERENCE_POOL.name)
        return []

    async def _wait_for_kinds(self) -> None:
        """Wait until the API server answers and knows our kinds: kopf looks for them only once."""
        said = ""
        while True:
            try:
                missing = [kind.name for kind in self._own if not await self._api.serves(kind)]
                if not missing:
                    return
                trouble = f"the API server does not know {' and '.join(missing)} of {GROUP}/{VERSION}; install the CRDs"
            except KubeError as error:
                trouble = str(error)
            if trouble != said:
                log.warning("waiting: %s", trouble)
            said = trouble
            await asyncio.sleep(_CRD_WAIT_SECONDS)

    async def _work(self, key: Key) -> None:
        """One pass over `key`, and what comes of it."""
        start = self._under_way[key] = time.monotonic()
        result = "failed"
        try:
            delay = await self._passes[key.kind](key.namespace, key.name)
        except Retry as error:
            result = "retry"
            log.info("%s: %s; trying again in %.0f s, as the API server asks", key, error, error.after)
            self._budget.pause(min(error.after, _LONGEST_PAUSE))
            self._queue.add(key, error.after * self._rng.uniform(1, 1.2))
        except Conflict as error:
            result = "conflict"
            log.debug("%s: changed meanwhile: %s", key, error)
            self._queue.add(key, self._rng.uniform(0.05, 0.2))
        except KubeError as error:
            wait = self._queue.failed(key)
            self._metrics.failed(key.kind.name, f"status{error.status}" if error.status else "unreachable")
            log.warning("%s: %s; trying again in %.1f s", key, error, wait)
        except Exception:  # a bug in one pass must not stop the passes over everything else
            wait = self._queue.failed(key)
            self._metrics.failed(key.kind.name, "bug")
            log.exception("%s: unexpected error; trying again in %.1f s", key, wait)
        else:
            result = "done"
            self._queue.succeeded(key)
            if delay is not None:
                self._queue.add(key, delay)
        finally:
            del self._under_way[key]
            self._metrics.passed(key.kind.name, result, time.monotonic() - start)

    def _unready(self) -> str | None:
        if self._stop.is_set() or (self._workers and self._workers.done()):
            return "stopping"
        if not self._found_kinds:
            return "waiting for the API server and the CRDs"
        return self._elector.trouble if self._elector else None

    def _unhealthy(self) -> str | None:
        if self._failure:
            return f"cannot go on: {self._failure!r}"
        longest = max((time.monotonic() - start for start in self._under_way.values()), default=0.0)
        if longest > _STUCK_SECONDS:
            return f"a pass has been under way for {longest:.0f} s"
        return self._streams.trouble()


def _no_cluster_profiles(namespaced: bool) -> str:
    why = "works in some namespaces only and cannot read" if namespaced else "was not told (--cluster-profiles) to use"
    return f"the operator {why} a ClusterLatencyProfile; refer to a LatencyProfile in the namespace of the server"


def _now() -> datetime:
    return datetime.now(UTC)
