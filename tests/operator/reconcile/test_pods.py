"""Whose pods they are, and what is asked of and pushed to them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from ghostfleet_operator.reconcile.api import Object
from ghostfleet_operator.reconcile.pods import Acknowledgements, Pod, owned_pods
from ghostfleet_operator.reconcile.token import admin_token
from ghostfleet_simulator.config import ServerConfig
from ghostfleet_simulator.document import Document, InForce, Refused


def raw(name: str, address: str | None = "10.0.0.1", *, ready: bool = True, **meta: Any) -> Object:
    owner = {"kind": "ReplicaSet", "name": "s-abc", "uid": "1", "controller": True}
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "labels": {"pod-template-hash": "abc"},
            "ownerReferences": [owner],
            **meta,
        },
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def document(revision: int, ttft: str = "20ms") -> Document:
    config = ServerConfig.model_validate({"model": {"name": "m"}, "profile": {"simple": {"timeToFirstToken": ttft}}})
    return Document.of(config, revision)


class Servers:
    """Admin APIs of pods by address, over httpx's in-process transport; counts the requests."""

    def __init__(self, **running: Document) -> None:
        self.in_force = {address.replace("_", "."): InForce.start(doc) for address, doc in running.items()}
        self.requests: list[str] = []
        self.silent: set[str] = set()

    async def handle(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.requests.append(f"{request.method} {host}")
        if host in self.silent:
            raise httpx.ReadTimeout("silent")
        assert request.headers["authorization"] == f"Bearer {admin_token(b'k' * 16, 'u')}"
        if request.method == "PUT":
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

    def pushed(self, result: str, count: int) -> None:
        self.pushes[result] = self.pushes.get(result, 0) + count

    def synced(self, seconds: float) -> None: ...
    def corrected(self, kind: str) -> None: ...


class Round:
    """Acknowledgements with servers of the test's own and a clock that it moves."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.now = 0.0
        self.counts = Counts()
        self.acks = Acknowledgements(
            client=httpx.AsyncClient(transport=httpx.MockTransport(servers.handle)),
            token=admin_token(b"k" * 16, "u"),
            clock=lambda: self.now,
            observer=self.counts,
            fresh_seconds=20.0,
        )

    async def go(self, pods: list[Pod], doc: Document) -> list[str]:
        """One pass; the requests it made."""
        self.servers.requests.clear()
        await self.acks.refresh(pods)
        await self.acks.deliver(pods, doc)
        return sorted(self.servers.requests)


def test_only_pods_of_the_deployments_replica_sets_count_and_none_that_is_being_deleted() -> None:
    pods = [
        raw("mine"),
        raw("going", deletionTimestamp="2026-01-01T00:00:00Z"),
        raw("bare", ownerReferences=[]),
        raw("other", ownerReferences=[{"kind": "ReplicaSet", "name": "t-abc", "controller": True}]),
        raw("job", ownerReferences=[{"kind": "Job", "name": "s-abc", "controller": True}]),
        raw("guest", ownerReferences=[{"kind": "ReplicaSet", "name": "s-abc"}]),
    ]
    assert [pod.name for pod in owned_pods(pods, "s")] == ["mine"]


def test_the_admin_address_of_an_ipv6_pod_is_bracketed() -> None:
    assert Pod.of(raw("a", "fd00::1")).target("t").admin_url == "http://[fd00::1]:9101"


async def test_pods_are_asked_once_and_pushed_to_only_where_they_are_behind() -> None:
    old, new = document(1), document(2, "9ms")
    pods = [Pod.of(raw("a", "10.0.0.1")), Pod.of(raw("b", "10.0.0.2")), Pod.of(raw("c", "10.0.0.3", ready=False))]
    run = Round(Servers(**{"10_0_0_1": new, "10_0_0_2": old}))
    assert await run.go(pods, new) == ["GET 10.0.0.1", "GET 10.0.0.2", "PUT 10.0.0.2"]
    assert [(r.name, r.revision, r.reason) for r in run.acks.replicas(pods)] == [
        ("a", 2, None),
        ("b", 2, None),
        ("c", None, None),
    ]
    assert await run.go(pods, new) == [], "what is known is not asked again"
    run.now = 21.0
    assert await run.go(pods, new) == ["GET 10.0.0.1", "GET 10.0.0.2"], "but after a while it is"
    assert run.counts.pushes == {"acknowledged": 1}


async def test_a_container_that_started_anew_is_asked_again() -> None:
    run, first = Round(Servers(**{"10_0_0_1": document(1)})), raw("a")
    await run.go([Pod.of(first)], document(1))
    first["status"]["containerStatuses"] = [{"restartCount": 1}]
    assert await run.go([Pod.of(first)], document(1)) == ["GET 10.0.0.1"]


async def test_a_silent_pod_is_not_pushed_to_before_it_answers() -> None:
    pods, servers = [Pod.of(raw("a"))], Servers(**{"10_0_0_1": document(1)})
    run = Round(servers)
    servers.silent.add("10.0.0.1")
    assert set(await run.go(pods, document(2))) == {"GET 10.0.0.1"}
    assert run.acks.replicas(pods)[0].reason == "timeout: http://10.0.0.1:9101 did not answer in time"
    servers.silent.clear()
    assert await run.go(pods, document(2)) == ["GET 10.0.0.1", "PUT 10.0.0.1"]
    assert run.acks.runs(pods[0], document(2))


async def test_a_pod_ahead_is_seen_and_so_is_another_document_under_the_same_number() -> None:
    pods = [Pod.of(raw("a"))]
    run = Round(Servers(**{"10_0_0_1": document(7, "3ms")}))
    await run.go(pods, document(2))
    assert run.acks.highest_revision(pods) == 7
    assert not run.acks.refused_same_revision(pods, document(2))
    await run.go(pods, document(7, "4ms"))
    assert run.acks.refused_same_revision(pods, document(7, "4ms"))
    assert run.counts.pushes == {"refused": 2}


def test_a_token_depends_on_key_server_and_epoch() -> None:
    tokens = {admin_token(k, u, e) for k in (b"1" * 16, b"2" * 16) for u in ("a", "b") for e in (1, 2)}
    assert len(tokens) == 8
    known = "7af50a5eefeeb983048b1dd36dd1b9b5d98525dbb58ceb5d0e8509d72ac27258"
    assert admin_token(b"key", "u", 1) == known, "pods of an earlier release keep theirs"
