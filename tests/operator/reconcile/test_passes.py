"""What a reconciler is told."""

from __future__ import annotations

import math

import pytest

from ghostfleet_operator.reconcile.passes import Settings


@pytest.mark.parametrize(
    ("servers", "waiting", "seconds"),
    [(1, False, 21.6), (10, False, 21.6), (100, False, 100), (1000, False, math.inf), (10, True, 20), (1000, True, 20)],
)
def test_secrets_are_applied_once_a_second_in_all_and_sooner_where_a_pod_may_wait(
    servers: int, waiting: bool, seconds: float
) -> None:
    """Of each server with every look at its pods (30 s, and up to a fifth sooner), if that is not too many."""
    settings = Settings("sim:1", lambda: (b"0123456789abcdef",))
    assert settings.secret_seconds(servers, waiting=waiting) == pytest.approx(seconds)
