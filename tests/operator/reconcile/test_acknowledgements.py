"""What is asked of and pushed to pods, and that nobody waits for one that does not answer."""

from __future__ import annotations

import asyncio
import json
import random
import string
import time

import httpx
import pytest
from tests.operator.pods import raw_pod as raw

from ghostfleet_operator.local.push import over_httpx
from ghostfleet_operator.plan.observed import Replica
from ghostfleet_operator.reconcile import acknowledgements
from ghostfleet_operator.reconcile.acknowledgements import Acknowledgements, Lanes
from ghostfleet_operator.reconcile.pods import Pod
from ghostfleet_operator.reconcile.token import Tokens, admin_token
from ghostfleet_simulator.bearer import bound
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document, InForce, Refused

TOKEN = admin_token(b"k" * 16, "u").encode()
PODS = (*string.ascii_lowercase, *(f"p{n}" for n in range(9)))


def document(revision: int, ttft: str = "20ms") -> Document:
    config = ServerConfig.model_validate({"model": {"name": "m"}, "profile": {"simple": {"timeToFirstToken": ttft}}})
    return Document.of(config, revision)


class Servers:
    """Admin APIs of pods by address, over httpx's in-process transport; counts the requests."""

    def __init__(self, **running: Document) -> None:
        self.in_force = {address.replace("_", "."): InForce.start(doc) for address, doc in running.items()}
        self.requests: list[str] = []
        self.silent: set[str] = set()
        self.hanging: dict[str, asyncio.Event] = {}
        self.deaf: set[str] = set()

    async def handle(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.requests.append(f"{request.method} {host}")
        if host in self.hanging:
            await self.hanging[host].wait()
        if host in self.silent:
            raise httpx.ReadTimeout("silent")
        assert request.headers["authorization"].removeprefix("Bearer ") in {bound(TOKEN, pod, host) for pod in PODS}
        if request.method == "PUT" and host not in self.deaf:
            try:
                self.in_force[host] = self.in_force[host].offer(Document.parse(json.loads(request.content)))
            except Refused as error:
                return httpx.Response(409, json={"error": {"message": str(error)}})
        now = self.in_force[host]
        return httpx.Response(200, json={"revision": now.revision, "hash": now.document.hash})


class Counts:
    """An observer that adds up pushes."""

    def __init__(self) -> None:
        self.pushes: dict[str, int] = {}

    def pushed(self, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.pushes[result] = self.pushes.get(result, 0) + 1

    def synced(self, seconds: float) -> None: ...
    def corrected(self, kind: str) -> None: ...
    def rolled_back(self) -> None: ...


class Round:
    """Acknowledgements with servers of the test's own and a clock that it moves."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.now = 0.0
        self.counts = Counts()
        self.wakes = 0
        self.acks = Acknowledgements(
            lanes=Lanes(over_httpx(httpx.AsyncClient(transport=httpx.MockTransport(servers.handle)))),
            tokens=Tokens.of((b"k" * 16,), "u", 1),
            clock=lambda: self.now,
            observer=self.counts,
            rng=random.Random(1),
            observe_seconds=30.0,
            wake=self._woken,
        )

    def _woken(self) -> None:
        self.wakes += 1

    async def go(self, pods: list[Pod], doc: Document) -> list[str]:
        """One pass; the requests it made."""
        self.servers.requests.clear()
        await self.acks.refresh(pods)
        await self.acks.deliver(pods, lambda _pod: doc)
        return sorted(self.servers.requests)

    def said(self, pod: Pod) -> Replica:
        return self.acks.replicas([pod])[0]


async def test_pods_are_asked_once_and_pushed_to_only_where_they_are_behind() -> None:
    old, new = document(1), document(2, "9ms")
    pods = [Pod.of(raw("a", "10.0.0.1")), Pod.of(raw("b", "10.0.0.2")), Pod.of(raw("c", "10.0.0.3", ready=False))]
    run = Round(Servers(**{"10_0_0_1": new, "10_0_0_2": old}))
    asked = ["GET 10.0.0.1", "GET 10.0.0.2", "GET 10.0.0.2", "PUT 10.0.0.2"]
    assert await run.go(pods, new) == asked, "after a push the pod is asked what it runs"
    assert [(r.name, r.revision, r.reason) for r in run.acks.replicas(pods)] == [
        ("a", 2, None),
        ("b", 2, None),
        ("c", None, None),
    ]
    assert await run.go(pods, new) == [], "what is known is not asked again"
    run.now = 25.0
    assert await run.go(pods, new) == ["GET 10.0.0.1", "GET 10.0.0.2"], "but after a while it is"
    assert run.counts.pushes == {"acknowledged": 1}
    assert run.acks.next_due(pods, lambda _pod: new) is None


async def test_pods_of_a_wave_are_asked_oftener() -> None:
    pods, doc = [Pod.of(raw("a", "10.0.0.1")), Pod.of(raw("b", "10.0.0.2"))], document(1)
    run = Round(Servers(**{"10_0_0_1": doc, "10_0_0_2": doc}))
    await run.go(pods, doc)
    run.now = 6.0
    run.servers.requests.clear()
    await run.acks.refresh(pods, closely={"b"}, close_seconds=5.0)
    assert run.servers.requests == ["GET 10.0.0.2"]


async def test_a_container_that_started_anew_is_asked_again() -> None:
    run, first = Round(Servers(**{"10_0_0_1": document(1)})), raw("a")
    await run.go([Pod.of(first)], document(1))
    first["status"]["containerStatuses"] = [{"restartCount": 1}]
    assert await run.go([Pod.of(first)], document(1)) == ["GET 10.0.0.1"]
    assert run.said(Pod.of(first)).restarts == 1


async def test_a_silent_pod_is_not_pushed_to_before_it_answers() -> None:
    pods, servers = [Pod.of(raw("a"))], Servers(**{"10_0_0_1": document(1)})
    run = Round(servers)
    servers.silent.add("10.0.0.1")
    assert set(await run.go(pods, document(2))) == {"GET 10.0.0.1"}
    assert run.said(pods[0]).reason == "timeout: http://10.0.0.1:9101 did not answer in time"
    servers.silent.clear()
    assert await run.go(pods, document(2)) == [], "it is given a moment"
    due = run.acks.next_due(pods, lambda _pod: document(2))
    assert due is not None
    assert 0.5 < due < 1.5
    run.now += due
    await run.go(pods, document(2))
    await asyncio.sleep(0.05)  # nobody waits for a pod that did not answer the last time
    assert run.wakes == 1
    await run.go(pods, document(2))
    assert run.said(pods[0]).runs(document(2))


async def test_a_hung_pod_holds_up_neither_a_pass_nor_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledgements, "PATIENCE_SECONDS", 0.5)
    pods = [Pod.of(raw(f"p{n}", f"10.0.0.{n}")) for n in range(1, 5)]
    servers = Servers(**{f"10_0_0_{n}": document(1) for n in range(1, 5)})
    run, new = Round(servers), document(2, "9ms")
    await run.go(pods, document(1))
    servers.hanging["10.0.0.1"] = asyncio.Event()
    began = time.monotonic()
    await run.go(pods, new)
    first = time.monotonic() - began
    assert [run.said(pod).runs(new) for pod in pods] == [False, True, True, True]
    began = time.monotonic()
    assert await run.go(pods, new) == [], "the call that is under way is not made twice"
    assert time.monotonic() - began < 0.45
    assert 0.45 < first < 5.0
    assert run.wakes == 0
    servers.hanging.pop("10.0.0.1").set()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if run.wakes:
            break
    assert run.wakes == 1, "a late answer wakes the server"
    assert run.said(pods[0]).runs(new)


async def test_a_pod_that_says_yes_and_never_applies_is_tried_ever_less_often_and_stays_named() -> None:
    pods, servers = [Pod.of(raw("a"))], Servers(**{"10_0_0_1": document(1)})
    run, new = Round(servers), document(2, "9ms")
    servers.deaf.add("10.0.0.1")
    waits = []
    for _ in range(8):
        await run.go(pods, new)
        assert str(run.said(pods[0]).reason).startswith("said yes, but runs revision 1")
        due = run.acks.next_due(pods, lambda _pod: new)
        assert due is not None
        assert await run.go(pods, new) == []
        waits.append(due)
        run.now += due
    assert waits[0] < 2
    assert waits[3] > 4
    assert max(waits) < 40
    other = document(3, "4ms")
    await run.go(pods, other)
    assert await run.go(pods, other) == [], "another document is tried at once"
    assert run.counts.pushes["refused"] == 9, "eight times the first document, once the other"


async def test_a_pod_ahead_is_seen_and_so_is_another_document_under_the_same_number() -> None:
    pods = [Pod.of(raw("a"))]
    run = Round(Servers(**{"10_0_0_1": document(7, "3ms")}))
    await run.go(pods, document(2))
    assert run.said(pods[0]).revision == 7
    await run.go(pods, document(7, "4ms"))
    assert run.said(pods[0]).refused == (409, document(7, "4ms").hash)
    assert run.counts.pushes == {"refused": 2}


async def test_calls_to_pods_that_are_gone_are_broken_off() -> None:
    pods, servers = [Pod.of(raw("a"))], Servers(**{"10_0_0_1": document(1)})
    run = Round(servers)
    servers.silent.add("10.0.0.1")
    await run.go(pods, document(1))
    servers.hanging["10.0.0.1"] = asyncio.Event()
    run.now += 60
    await run.go(pods, document(1))
    await asyncio.sleep(0.02)
    await run.acks.refresh([])
    servers.hanging["10.0.0.1"].set()
    await asyncio.sleep(0.05)
    assert run.wakes == 0
    assert run.said(pods[0]).reason is None
