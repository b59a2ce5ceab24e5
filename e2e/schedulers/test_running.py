"""Decisions by the number of requests that run."""

from __future__ import annotations

from e2e.schedulers.busy import Busy
from e2e.schedulers.lab import MODEL, Lab, scoring

ASK = {"model": MODEL, "prompt": "hello"}


def test_the_server_that_runs_the_fewest_requests_is_picked(lab: Lab) -> None:
    """Three requests on one, one on another, none on the third."""
    first, second, third = lab.pods()
    load = ASK | {"max_tokens": 1000}
    with (
        lab.picker("running", scoring(running_requests_size_scorer=1)) as picker,
        Busy(*[(first.url, load)] * 3, (second.url, load)) as busy,
    ):
        picker.until("average_running_requests", 4 / 3)
        assert picker.spread(ASK, 20) == {third.endpoint: 20}
        busy.add(*[(third.url, load)] * 2)
        picker.until("average_running_requests", 6 / 3)
        assert picker.spread(ASK, 20) == {second.endpoint: 20}
