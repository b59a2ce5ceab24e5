"""Whose pods they are, and which token they take."""

from __future__ import annotations

from tests.operator.pods import raw_pod as raw

from ghostfleet_operator.reconcile.pods import Pod, owned_pods
from ghostfleet_operator.reconcile.token import admin_token


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


def test_a_token_depends_on_key_server_and_epoch() -> None:
    tokens = {admin_token(k, u, e) for k in (b"1" * 16, b"2" * 16) for u in ("a", "b") for e in (1, 2)}
    assert len(tokens) == 8
    known = "7af50a5eefeeb983048b1dd36dd1b9b5d98525dbb58ceb5d0e8509d72ac27258"
    assert admin_token(b"key", "u", 1) == known, "pods of an earlier release keep theirs"
