"""Passes over servers, each by a process that remembers nothing, which may be cut off at any call to the API."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
from tests.apiserver.control_plane import ControlPlane

from ghostfleet_operator.kube.client import KubeClient
from ghostfleet_operator.kube.login import Login
from ghostfleet_operator.local.push import over_httpx
from ghostfleet_operator.reconcile.api import PROFILE, SERVER, KubeApi, KubeError
from ghostfleet_operator.reconcile.census import Census
from ghostfleet_operator.reconcile.events import Recorder
from ghostfleet_operator.reconcile.mapping import Mapper
from ghostfleet_operator.reconcile.passes import Settings
from ghostfleet_operator.reconcile.server import ServerReconciler
from ghostfleet_operator.reconcile.store import Store


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

    def pushed(self, result: str, seconds: float) -> None: ...
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
        """One pass with everything new, after everything was listed; the number of calls it made."""
        api, store = Cutting(self._client, at, sent=sent), Store()
        own = (SERVER, PROFILE)
        await Census(self._client, Mapper(store, lambda _key, _delay: None, own), own, (namespace,)).take()
        async with httpx.AsyncClient() as http:
            reconciler = ServerReconciler(
                api=api,  # type: ignore[arg-type]  # passes every call of the protocol on by name
                store=store,
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
