"""Who is in the pool: pods that are Ready, from the moment they are until they are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.conftest import until
from e2e.schedulers.lab import MODEL, Lab, Pod, RunningPicker, scoring

ASK = {"model": MODEL, "prompt": "hello"}


@pytest.fixture
def picker(lab: Lab) -> Iterator[RunningPicker]:
    """One that picks by queues; nobody has any."""
    with lab.picker("membership", scoring(queue_scorer=1)) as found:
        yield found


@contextmanager
def changed(lab: Lab, server: str, spec: dict[str, object], back: dict[str, object]) -> Iterator[None]:
    """A server with another spec, until the block ends."""
    lab.change(server, **spec)
    try:
        yield
    finally:
        lab.change(server, **back)


def picked(picker: RunningPicker) -> set[str | None]:
    """Who is picked by chance: among equals each of four is left out of sixty once in ten million times."""
    return set(picker.spread(ASK, 60))


def endpoints(pods: list[Pod]) -> set[str | None]:
    return {pod.endpoint for pod in pods}


def test_a_server_that_is_scaled_is_in_the_pool_with_all_its_pods(lab: Lab, picker: RunningPicker) -> None:
    before = lab.pods()
    assert picked(picker) == endpoints(before)
    with changed(lab, "alpha", {"replicas": 3}, {"replicas": 2}):
        picker.until("ready_pods", 4)
        until("the new one is picked", lambda: picked(picker) == endpoints(lab.pods()))
        assert len(lab.pods()) == 4
    picker.until("ready_pods", 3)
    until("three are picked", lambda: picked(picker) == endpoints(lab.pods()))


def test_a_killed_pod_leaves_the_pool_and_another_takes_its_place(lab: Lab, picker: RunningPicker) -> None:
    (killed, *_) = lab.pods()
    lab.kill(killed)
    until("it is not picked any more", lambda: killed.endpoint not in picked(picker))
    until("another one is", lambda: len(lab.pods()) == 3 and picked(picker) == endpoints(lab.pods()), 120)
    assert killed.uid not in {pod.uid for pod in lab.pods()}


def test_an_unready_pod_leaves_the_pool_and_comes_back_without_a_restart(lab: Lab, picker: RunningPicker) -> None:
    """By a live field: readiness as a failure that is switched on and off."""
    *others, unready = lab.pods()
    assert unready.server == "beta"
    with changed(lab, "beta", {"failures": [{"type": "Unready"}]}, {"failures": []}):
        picker.until("ready_pods", 2)
        until("it is not picked any more", lambda: picked(picker) == endpoints(others))
    picker.until("ready_pods", 3)
    until("it is picked again", lambda: unready.endpoint in picked(picker))
    assert lab.pods()[-1] == unready
