"""Requests of low priority are refused while every server is full, and others are not."""

from __future__ import annotations

from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import MODEL, POOL, SLOTS, Lab, scoring

ASK = {"model": MODEL, "prompt": "hello"}
OBJECTIVE = {"x-gateway-inference-objective": "batch"}


BATCH = {
    "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
    "kind": "InferenceObjective",
    "metadata": {"name": "batch"},
    "spec": {"priority": -1, "poolRef": {"group": "inference.networking.k8s.io", "name": POOL}},
}


def test_a_full_pool_sheds_what_can_be_shed(lab: Lab) -> None:
    """Five requests wait on each server: priority -1 gets 429, priority 0 is let in; idle again, both are."""
    load = ASK | {"max_tokens": 1000}
    every = [(pod.url, load) for pod in lab.pods() for _ in range(SLOTS + 5)]
    with lab.having(BATCH), lab.picker("shedding", scoring(queue_scorer=1)) as picker:
        assert picker.ask(ASK, headers=OBJECTIVE).refused is None
        with Busy(*every):
            picker.until("average_queue_size", 5)
            assert {picker.ask(ASK, headers=OBJECTIVE).refused for _ in range(20)} == {429}
            assert {picker.ask(ASK).refused for _ in range(20)} == {None}
        picker.until("average_queue_size", 0)
        assert picker.ask(ASK, headers=OBJECTIVE).refused is None
