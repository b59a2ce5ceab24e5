"""A pass that is cut off at any call to the API leaves nothing that the next pass, by a new process, does not mend."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from tests.apiserver.cluster import Cluster, Json, document_of, server, unchanged
from tests.apiserver.control_plane import ControlPlane

from ghostfleet_operator.kube.client import KubeClient
from ghostfleet_operator.kube.login import Login
from ghostfleet_operator.plan.kubernetes import ChildNames
from ghostfleet_operator.reconcile.api import CHILDREN, SECRET, SERVER, KubeApi, KubeError
from ghostfleet_operator.reconcile.events import Recorder
from ghostfleet_operator.reconcile.passes import Settings
from ghostfleet_operator.reconcile.server import ServerReconciler
from ghostfleet_operator.reconcile.store import Store
from ghostfleet_operator.rollout import over_httpx


class Broken(KubeError):
    """The connection was cut."""


class Cutting:
    """Passes calls on, and cuts the connection at the `at`-th one: before it is sent, or before its answer comes."""

    def __init__(self, api: KubeApi, at: int, *, sent: bool) -> None:
        self._api = api
        self._at = at
        self._sent = sent
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        real = getattr(self._api, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            cut = self.calls == self._at
            if cut and not self._sent:
                raise Broken("cut before it was sent")
            answer = await real(*arguments, **named)
            if cut:
                raise Broken("cut before the answer came")
            return answer

        return call


class Silent:
    """An observer of work that counts nothing."""

    def pushed(self, result: str, count: int) -> None: ...
    def synced(self, seconds: float) -> None: ...
    def corrected(self, kind: str) -> None: ...
    def rolled_back(self) -> None: ...


async def no_limit() -> None:
    """A write budget without an end."""


class Process:
    """What one operator process would be: nothing that it remembers outlives it."""

    def __init__(self, plane: ControlPlane) -> None:
        self._client = KubeClient(Login(str(plane.kubeconfig)), no_limit)

    async def one_pass(self, namespace: str, name: str, at: int = 0, *, sent: bool = False) -> int:
        """One pass with everything new; the number of calls it made."""
        api = Cutting(self._client, at, sent=sent)
        async with httpx.AsyncClient() as http:
            reconciler = ServerReconciler(
                api=api,  # type: ignore[arg-type]  # passes every call of the protocol on by name
                store=Store(),
                send=over_httpx(http),
                settings=Settings(simulator_image="sim:1", keys=lambda: (b"k" * 32,)),
                recorder=Recorder(api, lambda: datetime.now(UTC), "test"),  # type: ignore[arg-type]  # as above
                observer=Silent(),
                add=lambda _key, _delay: None,
                clock=time.monotonic,
                now=lambda: datetime.now(UTC),
                rng=random.Random(1),
            )
            await reconciler.reconcile(namespace, name)
        return api.calls

    async def close(self) -> None:
        await self._client.close()


@contextmanager
def processes(plane: ControlPlane) -> Iterator[tuple[asyncio.Runner, Process]]:
    with asyncio.Runner() as runner:
        process = Process(plane)
        yield runner, process
        runner.run(process.close())


def outcome(cluster: Cluster, namespace: str, name: str) -> Json:
    """Everything of a server that a user can see, without what differs between any two servers."""
    uid = cluster.must_get(SERVER, namespace, name)["metadata"]["uid"]
    secret = ChildNames.of(name, uid).secret
    children = {
        f"{kind.name}/{obj['metadata']['name'].removeprefix(name)}": (obj.get("spec"), sorted(obj.get("data", {})))
        for kind in CHILDREN
        for obj in cluster.list(kind, namespace)
        if obj["metadata"]["name"].split("-")[0] == name
    }
    for spec, _ in children.values():
        for key in ("clusterIP", "clusterIPs"):
            (spec or {}).pop(key, None)
    status = cluster.status(namespace, name)
    conditions = [(c["type"], c["status"], c["reason"]) for c in status["conditions"]]
    text = repr((children, conditions, status["profile"]["desired"]["hash"], status["observedGeneration"]))
    assert cluster.get(SECRET, namespace, secret) is not None
    return {
        "text": text.replace(secret, "SECRET").replace(name, "NAME"),
        "hash": document_of(cluster, namespace, name)["hash"],
    }


@pytest.mark.parametrize("sent", [False, True], ids=["before it is sent", "before the answer comes"])
def test_a_pass_cut_off_at_any_call_is_completed_by_the_next_process(
    plane: ControlPlane, cluster: Cluster, namespace: str, sent: bool
) -> None:
    with processes(plane) as (runner, process):
        cluster.create(server(namespace, "whole"))
        calls = runner.run(process.one_pass(namespace, "whole"))
        assert calls > 12
        wanted = outcome(cluster, namespace, "whole")
        for at in range(1, calls + 1):
            name = f"cut{at:03}"
            cluster.create(server(namespace, name))
            # An Event that is lost is the one thing that stays lost, and it does not fail the pass.
            try:
                runner.run(process.one_pass(namespace, name, at, sent=sent))
            except Broken:
                runner.run(process.one_pass(namespace, name))
            assert outcome(cluster, namespace, name) == wanted, f"cut at call {at} of {calls}"
            if at % 5 == 0:
                with unchanged(cluster, namespace):
                    runner.run(process.one_pass(namespace, name))


def test_a_change_cut_off_at_any_call_is_completed_and_spends_one_revision(
    plane: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    with processes(plane) as (runner, process):
        cluster.create(server(namespace, "one"))
        calls = runner.run(process.one_pass(namespace, "one"))
        for at in range(1, calls + 1):
            ttft = f"{at + 100}ms"
            cluster.merge(SERVER, namespace, "one", {"spec": {"profile": {"simple": {"timeToFirstToken": ttft}}}})
            for sent in (False, True):
                try:
                    runner.run(process.one_pass(namespace, "one", at, sent=sent))
                except Broken:
                    continue
            runner.run(process.one_pass(namespace, "one"))
            document = document_of(cluster, namespace, "one")
            assert document["config"]["profile"]["simple"]["timeToFirstToken"] == ttft
            assert document["revision"] == at + 1, f"cut at call {at} of {calls}"
            assert cluster.status(namespace, "one")["profile"]["desired"]["revision"] == at + 1
