"""Many endpoints, and many decisions between two scrapes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.conftest import until
from e2e.schedulers.llm_d.conftest import Start
from e2e.schedulers.llm_d.fleets import ASK, endpoint, objects
from e2e.schedulers.llm_d.picker import LlmdPicker
from ghostfleet_operator.testing.plugin import StartFleet

SERVERS = 200
PER_PROCESS = 50
SCRAPE = ("--refresh-metrics-interval=1s",)
"""Seldom enough for a small machine: two hundred scrapes a second."""
BUSY: dict[str, Any] = {"fakeMetrics": {"vllm:num_requests_waiting": "3"}}
"""A queue on all servers but one would be six hundred requests; this is told in the same way."""


@contextmanager
def burst(picker: LlmdPicker, count: int) -> Iterator[Counter[str | None]]:
    """Where so many requests go that come one after the other; all of them are under way until the block ends."""
    names = [f"burst-{number}" for number in range(count)]
    yield Counter(picker.ask(ASK, hold=name).endpoint for name in names)
    for name in names:
        picker.drop(name)


@pytest.mark.timeout(300)
def test_a_burst_is_a_herd_by_queues_and_none_by_requests_under_way(ghostfleet_fleet: StartFleet, start: Start) -> None:
    """Queues are as old as the last scrape: two hundred decisions go to the one server without. What the picker itself
    has sent it knows at once: they are shared out evenly."""
    fleet = ghostfleet_fleet(objects(many={"replicas": SERVERS - 1, **BUSY}, free={}), servers_per_process=PER_PROCESS)
    assert len(fleet.urls) == SERVERS
    picker = start(fleet.endpoints_file, "queue-scorer", flags=SCRAPE)
    free = endpoint(fleet, "free-0")
    until("all queues are known", lambda: Counter(picker.scores(ASK).values()) == {1: 1, 0: SERVERS - 1})
    with burst(picker, SERVERS) as herd:
        assert herd == {free: SERVERS}
    before = picker.value("scheduler_e2e_duration_seconds_count")
    counting = start(fleet.endpoints_file, "inflight-load-producer", "active-request-scorer", flags=SCRAPE)
    with burst(counting, SERVERS) as spread:
        assert spread == dict.fromkeys(spread, 1)
        assert len(spread) == SERVERS
        assert counting.value("request_running") == SERVERS
    until("none is under way", lambda: counting.value("request_running") == 0)
    for one in (picker, counting):
        assert one.value("ready_endpoints") == SERVERS
        assert one.value("datalayer_poll_errors_total") == one.value("datalayer_extract_errors_total") == 0
    assert before > SERVERS
    for each in (picker, counting):
        total, count = (each.value(f"scheduler_e2e_duration_seconds_{part}") for part in ("sum", "count"))
        print(f"a decision among {SERVERS} endpoints: {total / count * 1e3:.2f} ms, mean of {count:.0f}")
