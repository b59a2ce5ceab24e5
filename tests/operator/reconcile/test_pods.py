"""Whose pods they are, and which token they take."""

from __future__ import annotations

from pathlib import Path

from tests.operator.pods import raw_pod as raw

from ghostfleet_operator.reconcile.pods import Pod, owned_pods
from ghostfleet_operator.reconcile.token import Tokens, admin_token, epoch_of
from ghostfleet_simulator.bearer import Bearer


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
    tokens = Tokens.of((b"k" * 16,), "u", 1)
    assert Pod.of(raw("a", "fd00::1")).target(tokens).admin_url == "http://[fd00::1]:9101"


def test_a_token_depends_on_key_server_and_epoch() -> None:
    tokens = {admin_token(k, u, e) for k in (b"1" * 16, b"2" * 16) for u in ("a", "b") for e in (1, 2)}
    assert len(tokens) == 8
    known = "7af50a5eefeeb983048b1dd36dd1b9b5d98525dbb58ceb5d0e8509d72ac27258"
    assert admin_token(b"key", "u", 1) == known, "pods of an earlier release keep theirs"


def test_what_a_pod_is_sent_opens_no_other_pod_nor_this_one_at_another_address(tmp_path: Path) -> None:
    """An address may have gone to somebody else by the time at which the operator sends to it."""
    tokens = Tokens.of((b"new" * 8, b"old" * 8), "u", 3)
    target = Pod.of(raw("a", "10.0.0.1")).target(tokens)
    sent = (target.token, *target.others)
    assert len(set(sent)) == 4, "two keys, two epochs"
    file = tmp_path / "token"
    file.write_text("\n".join((*tokens.accepted, *tokens.outgoing)))
    others = [Bearer(file), Bearer(file, "a", "10.0.0.2"), Bearer(file, "b", "10.0.0.1")]
    for token in sent:
        assert Bearer(file, "a", "10.0.0.1").accepts(f"Bearer {token}")
        assert not any(bearer.accepts(f"Bearer {token}") for bearer in others)


def test_pods_are_to_accept_the_tokens_of_every_key_and_of_the_newest_epoch_only() -> None:
    new, old = b"new" * 8, b"old" * 8
    tokens = Tokens.of((new, old), "u", 3)
    assert tokens.accepted == (admin_token(new, "u", 3), admin_token(old, "u", 3))
    assert tokens.outgoing == (admin_token(new, "u", 2), admin_token(old, "u", 2))
    assert Tokens.of((new,), "u", 1) == Tokens((admin_token(new, "u", 1),), ())


def test_an_epoch_that_is_none_is_the_first() -> None:
    specs = ({}, None, {"adminTokenEpoch": 0}, {"adminTokenEpoch": "2"}, {"adminTokenEpoch": True})
    assert [epoch_of({"spec": spec}) for spec in specs] == [1] * 5
    assert epoch_of({"spec": {"adminTokenEpoch": 7}}) == 7
