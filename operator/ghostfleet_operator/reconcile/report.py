"""The end of a pass: the status is written where it changed, and Events tell what deserves one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any

from ghostfleet_operator.kinds.server_status import ServerStatus, parse_status
from ghostfleet_operator.plan.naming import is_ours
from ghostfleet_operator.reconcile.api import DEPLOYMENT, SERVER, KubeApi, KubeError
from ghostfleet_operator.reconcile.events import Recorder, transitions
from ghostfleet_operator.reconcile.observer import WorkObserver
from ghostfleet_operator.reconcile.passes import Pass
from ghostfleet_operator.reconcile.store import Store
from ghostfleet_operator.status import Observation, Workload, server_status


class Reporter:
    """Reports passes over servers."""

    def __init__(
        self,
        *,
        api: KubeApi,
        store: Store,
        recorder: Recorder,
        observer: WorkObserver,
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._store = store
        self._recorder = recorder
        self._observer = observer
        self._now = now

    def workload(self, run: Pass) -> Workload | None:
        """What is known of the server's Deployment, if it is there and the server's."""
        deployment = self._store.get(DEPLOYMENT, run.namespace, run.names.deployment)
        return Workload.of(deployment) if deployment and is_ours(deployment, run.uid) else None

    async def report(self, run: Pass) -> None:
        """Write the status where it changed, and tell what deserves an Event."""
        status = server_status(
            Observation(
                namespace=run.namespace,
                name=run.name,
                generation=run.raw["metadata"]["generation"],
                now=self._now(),
                previous=run.previous,
                began=run.began,
                plan=run.plan,
                truth=run.truth,
                scale=run.scale,
                unresolved=run.unresolved,
                obstacle=run.obstacle,
                pool_obstacle=run.pool_obstacle,
                workload=self.workload(run),
                replicas=run.replicas,
            )
        )
        if status == run.raw.get("status"):
            return
        await self._write(run, status)
        after = parse_status({"status": status})
        for notice in transitions(run.previous, after):
            await self._recorder.emit(run.raw, notice)
        self._count(run.previous, after)

    async def _write(self, run: Pass, status: dict[str, Any]) -> None:
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

    def _count(self, before: ServerStatus, after: ServerStatus) -> None:
        found, last = after.profile, before.profile
        if found and found.last_sync_duration and found.last_sync_time != (last.last_sync_time if last else None):
            self._observer.synced(float(found.last_sync_duration.removesuffix("s")))
        if found and found.rejected and found.rejected != (last.rejected if last else None):
            self._observer.rolled_back()
